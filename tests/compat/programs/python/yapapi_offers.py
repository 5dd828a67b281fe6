"""Prints the market's offers as yapapi sees them: one JSON object a line. Usage: yapapi_offers.py COUNT"""

import asyncio
import json
import sys
from datetime import UTC, datetime

from yapapi import props as yp
from yapapi.config import ApiConfig
from yapapi.props.builder import DemandBuilder
from yapapi.rest import Configuration, Market


async def main(count: int) -> None:
    async with Configuration(api_config=ApiConfig()).market() as client:
        builder = DemandBuilder()
        builder.add(yp.NodeInfo(name="offer reader", subnet_tag="public"))
        builder.add(yp.Activity(expiration=datetime.now(UTC)))
        async with Market(client).subscribe(builder.properties, builder.constraints) as subscription:
            async for event in subscription.events():
                print(json.dumps({"id": event.id, "issuer": event.issuer, "props": event.props}))
                count -= 1
                if not count:
                    return


asyncio.run(asyncio.wait_for(main(int(sys.argv[1])), 20))
