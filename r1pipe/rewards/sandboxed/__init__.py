"""The code inside the sandbox, standard library only: this folder is all of r1pipe that is visible there.

Of the driver's side only remote.py imports from here (checks.py); sandbox.py starts runner.main() inside bubblewrap.
Inside, the folder is not part of a package r1pipe, hence the relative imports.
"""
