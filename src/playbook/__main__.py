"""``python -m playbook``: the same as the ``playbook`` command."""

from .cli import main

if __name__ == "__main__":
    main()
