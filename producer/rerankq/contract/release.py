"""Which release this is, for both sides."""

VERSION = "0.2.0.dev0"
