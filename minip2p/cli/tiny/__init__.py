"""The tiny world's verbs: `minip2p tiny scene | evaluate | make-data | rebuild`."""
