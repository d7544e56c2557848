"""The command line: one module per noun, each loaded when it is asked for."""
