"""Messages between ranks: rank 0 is master and agent at once, and must know whom a message is for."""

from disttune.runtime import messages
from disttune.runtime.messages import ToAgent, ToMaster


def test_every_message_is_for_the_master_or_for_an_agent_and_never_for_both():
    for thing in vars(messages).values():
        if isinstance(thing, type):
            assert not (issubclass(thing, ToMaster) and issubclass(thing, ToAgent)), thing
