"""The releases that the tests passed with, oldest and newest. Made by `make lock`."""

TESTED = {
    "torch": ("2.8", "2.13.0"),
    "transformers": ("5.0", "5.24.0"),
    "triton": ("3.4", "3.7.1"),
    "numpy": ("1.24", "2.5.5"),
}
