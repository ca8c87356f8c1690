"""A debugging playbook for CrewAI under load."""
