"""Something to name that is no target."""

settings = {"model": "gpt-4o-mini", "temperature": 0.2}
