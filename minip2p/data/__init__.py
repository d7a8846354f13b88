"""Pictures: reading and fitting any (`images`), and a tiny world of edits whose right answer is known (`scenes`)."""
