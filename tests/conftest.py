"""What holds for all tests, in each process that makes some of them."""

from support.signals import hand_down_the_usual


def pytest_configure() -> None:
    hand_down_the_usual()
