"""What is wrong with a LoRA, before it is known whether a request or the service's start asked for it."""


class LoraFault(Exception):
    """A LoRA that cannot be used. The message goes on a sentence that begins with the LoRA's name."""
