"""Payment mode "channel": tokens locked for one provider, vouchers instead of debts (protocols/payment.md).

``service.Channels`` is what the payment service holds; ``payer`` and ``payee`` are the two sides, ``watch`` looks at
the chain, ``booking`` writes down what it finds. Nothing is imported here: ``payment.ports`` needs ``settings`` alone.
"""
