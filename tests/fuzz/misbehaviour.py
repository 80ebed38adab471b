"""What a worker must survive, in place of calls: an error, a crash, a hang."""

import os
import time


def prepare() -> None:
    pass


def draw(seed: int) -> int:
    return seed


def judge(seed: int) -> str:
    if seed == 1:
        raise AssertionError("wrong")
    if seed == 2:
        os.abort()
    if seed == 4:
        time.sleep(1000)
    return "answered"
