"""A small vision-language model of our own, and what reduction costs in its answers."""
