"""Tests with web pages that a real browser opens."""
