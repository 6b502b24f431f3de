"""The commands, a file for each or for a few of a kind; `logitbox.cli` puts them together."""
