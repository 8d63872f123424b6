"""Measures this package beside other WebSocket servers; see __main__.py."""
