"""chartbound takes a point-of-care result from the instrument's bytes to the EHR's acknowledgment."""

__version__ = "0.1.0"
