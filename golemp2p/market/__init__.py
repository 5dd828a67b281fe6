"""The market: order book, matcher, negotiation, agreements; a service over core, net and storage."""
