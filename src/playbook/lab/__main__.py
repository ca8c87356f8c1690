"""`python -m playbook.lab`: the lab as a process that lives as long as its parent."""

import argparse

from . import server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m playbook.lab")
    parser.add_argument("--port", type=int, default=0)
    server.managed(parser.parse_args().port)


main()
