"""Conventions and bugs, as data: what each changes of the definition that a metric's name promises."""
