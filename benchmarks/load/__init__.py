"""Load: many callers at a time, and what a listener notices of it."""
