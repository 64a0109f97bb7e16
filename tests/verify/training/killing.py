"""Kill a training at a chosen call, for the tests of resumption."""


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def killing(monkeypatch, owner, name, at):
    """Let the call number `at` of a function be the last; returns how many calls there were."""
    real, calls = getattr(owner, name), []

    def once_more(*given, **named):
        calls.append(name)
        if len(calls) == at:
            raise Killed
        return real(*given, **named)

    monkeypatch.setattr(owner, name, once_more)
    return calls
