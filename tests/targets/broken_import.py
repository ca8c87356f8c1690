"""Raises while it is imported."""

from crewai import Crew

raise RuntimeError("DATABASE_URL is not set")


def build_crew(inputs: dict) -> Crew:
    raise NotImplementedError
