"""Switches one protection off in every Python process that has this folder in PYTHONPATH.

FAULTS_OFF names it: `module:attribute = expression`, several with `;;` between them. The expression may use `plain`,
what stood there before. It is put in place as soon as the module has been imported, in forks and in processes that
the command line starts, too.
"""

import importlib
import importlib.abc
import importlib.machinery
import os
import sys


def _read():
    patches = {}
    for line in os.environ.get("FAULTS_OFF", "").split(";;"):
        place, _, expression = line.partition("=")
        module, _, attribute = place.strip().partition(":")
        if module:
            patches.setdefault(module, []).append((attribute, expression.strip()))
    return patches


def _switch_off(module, attribute, expression):
    *path, last = attribute.split(".")
    owner = module
    for part in path:
        owner = getattr(owner, part)
    plain = vars(owner).get(last, getattr(owner, last))
    setattr(owner, last, eval(expression, {**vars(module), "plain": plain}))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, patches):
        self.patches = patches

    def find_spec(self, name, path=None, target=None):
        if name not in self.patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            for attribute, expression in self.patches[name]:
                _switch_off(module, attribute, expression)

        spec.loader.exec_module = exec_module
        return spec


def _begin():
    patches = _read()
    for name in patches:
        # what the interpreter itself has imported, or holds
        if name in sys.modules or name in sys.builtin_module_names:
            for attribute, expression in patches[name]:
                _switch_off(importlib.import_module(name), attribute, expression)
    if patches:
        sys.meta_path.insert(0, _Finder(patches))


_begin()
