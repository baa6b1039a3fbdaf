"""The receiver of providers' webhooks: a signed hint that a batch has moved makes its next poll earlier.

signing     Standard Webhooks signatures: pure
telling     hints, gathered into commands, a bounded number a second
receiving   the HTTP side: what is answered to whom
"""

__all__: list[str] = []  # nothing is promised at this level: import from the modules
