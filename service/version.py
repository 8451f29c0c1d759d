"""The version of this code: what a bundle says it was made by, and what the interface reports."""

VERSION = "0.1.0"
