"""What runs inside the sandbox, with nothing but the standard library: this folder is all of r1pipe that is visible there.

Never imported outside; sandbox.py starts runner.main() inside bubblewrap. Hence the relative imports.
"""
