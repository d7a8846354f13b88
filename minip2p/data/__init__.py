"""Pictures: reading and fitting any (`images`), and a tiny world that draws edits whose right answer is known (`scenes`)."""
