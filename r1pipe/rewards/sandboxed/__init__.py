"""The code inside the sandbox, standard library only: this folder is all of r1pipe that is visible there.

The driver's side imports nothing from here but `alike`; sandbox.py starts runner.main() inside bubblewrap. Inside, the
folder is not part of a package r1pipe, hence the relative imports.
"""
