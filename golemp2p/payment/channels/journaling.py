"""What channels write into the journal, each in the transaction that makes it true."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from golemp2p.core.money import Amount
from golemp2p.core.payment import Side
from golemp2p.core.payment.journal import EntryKind
from golemp2p.core.payment.vouchers import ChannelConfig, Voucher, VoucherDomain
from golemp2p.payment.channels.abi import ClaimedEvent
from golemp2p.storage import journal
from golemp2p.storage.channels import Channel


def voucher(
    connection: Connection,
    side: Side,
    domain: VoucherDomain,
    config: ChannelConfig,
    newest: Voucher,
    agreement_id: str,
    total: Amount,
    *,
    now: float,
) -> None:
    """Made or received. Enough to verify the signature with nothing else."""
    body = {
        "side": side.value,
        "chainId": domain.chain_id,
        "contract": domain.contract,
        "payer": config.payer,
        "payee": config.payee,
        "signer": config.signer,
        "grace": config.grace_s,
        "salt": "0x" + config.salt.hex(),
        "channelId": "0x" + config.id.hex(),
        "cumulative": str(newest.cumulative),
        "agreementTotal": str(total),
        "signature": newest.signature.hex(),
    }
    journal.append(connection, EntryKind.VOUCHER, body, agreement_id=agreement_id, now=now)


def claim(
    connection: Connection, channel: Channel, event: ClaimedEvent, parts: list[tuple[str, Amount]], *, now: float
) -> None:
    """Finally on the chain. ``parts``: what each agreement gets of it."""
    body = {
        "side": channel.side.value,
        "channelId": channel.id,
        "chainId": channel.chain_id,
        "transaction": event.transaction,
        "blockNumber": event.block_number,
        "blockHash": event.block_hash,
        "paid": str(event.paid),
        "claimed": str(event.claimed),
        "agreements": [[agreement, str(amount)] for agreement, amount in parts],
    }
    only = parts[0][0] if len(parts) == 1 else ""
    journal.append(connection, EntryKind.CLAIM, body, agreement_id=only, now=now)


def closed(connection: Connection, channel: Channel, parts: list[tuple[str, Amount]], *, now: float) -> None:
    """Finally, by the chain. ``parts``: what was vouched for each agreement and can never be claimed."""
    body = {
        "side": channel.side.value,
        "channelId": channel.id,
        "chainId": channel.chain_id,
        "agreements": [[agreement, str(amount)] for agreement, amount in parts],
    }
    only = parts[0][0] if len(parts) == 1 else ""
    journal.append(connection, EntryKind.CHANNEL_CLOSED, body, agreement_id=only, now=now)
