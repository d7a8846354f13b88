"""What the tabs look like, in gradio's components; what they compute is in the files of the same names above."""
