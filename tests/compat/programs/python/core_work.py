"""golem-core: managers negotiate and hire; two pieces of work, one of them with files. Prints one line of JSON."""

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path

from golem.managers import (
    DefaultAgreementManager,
    DefaultPaymentManager,
    DefaultProposalManager,
    MidAgreementPaymentsNegotiator,
    NegotiatingPlugin,
    PaymentPlatformNegotiator,
    RefreshingDemandManager,
    SequentialWorkManager,
    SingleUseActivityManager,
    WorkContext,
)
from golem.node import GolemNode
from golem.payload import RepositoryVmPayload


async def echo(context: WorkContext) -> str:
    result = await context.run("echo hello core")
    await result.wait()
    return "".join(event.stdout for event in result.events)


async def files(context: WorkContext) -> str:
    Path("in.txt").write_text("golem-core\n")
    batch = await context.create_batch()
    batch.send_file("in.txt", "/golem/work/in.txt")
    batch.run("tr a-z A-Z < /golem/work/in.txt > /golem/work/out.txt")
    batch.download_file("/golem/work/out.txt", "out.txt")
    await batch()
    return Path("out.txt").read_text()


async def main():
    payload = RepositoryVmPayload(image_url=os.environ["IMAGE_URL"], image_hash=os.environ["IMAGE_HASH"])
    golem = GolemNode()
    payment = DefaultPaymentManager(golem, budget=1.0)
    demand = RefreshingDemandManager(golem, payment.get_allocation, [payload])
    proposal = DefaultProposalManager(
        golem,
        demand.get_initial_proposal,
        plugins=[
            NegotiatingPlugin(
                proposal_negotiators=[
                    PaymentPlatformNegotiator(),
                    MidAgreementPaymentsNegotiator(min_payment_timeout=timedelta(minutes=2)),
                ]
            )
        ],
    )
    agreement = DefaultAgreementManager(golem, proposal.get_draft_proposal)
    activity = SingleUseActivityManager(golem, agreement.get_agreement)
    work = SequentialWorkManager(golem, activity.get_activity)
    async with golem, payment, demand, proposal, agreement:
        results = await work.do_work_list([echo, files])
    print(json.dumps([result.result for result in results]))


asyncio.run(main())
