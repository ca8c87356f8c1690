"""Imports well, and raises as soon as it is asked for a crew."""

from crewai import Crew


def build_crew(inputs: dict) -> Crew:
    raise KeyError("tenant")
