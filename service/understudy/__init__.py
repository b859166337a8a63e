"""Understudy: serve a proof of concept, rehearse its successor on the same requests, and move over on evidence.

Data goes one way::

    front door → inputs → route → engine → the answer leaves
                                       ↘ record, shadow → store → controller → judge → plan → route

The store is the only meeting place of the request path and the controller, so either may restart alone.
"""

__version__ = "0.1.0"
