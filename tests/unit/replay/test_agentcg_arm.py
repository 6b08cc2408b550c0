# SPDX-License-Identifier: Apache-2.0
"""What the agentcg arm tells of a daemon's events."""

import asyncio
import os
import time

import pytest

from agentcg.api.aclient import aconnect
from agentcg.replay.agentcg_arm import AgentcgArm
from agentcg.replay.arms import Scene
from agentcg.replay.event_log import EventLog
from agentcg.replay.events import Frozen, Held, Killed, Thawed
from agentcg.replay.managed_place import ManagedPlace
from agentcg.replay.plan import make_plan
from agentcg.trace.model import RecordedCall, Recording, Sample

CALL = RecordedCall("toolu_01/x", "Bash", "ls", 0.0, 1.0)
PLAN = make_plan(Recording("r", 0.0, (CALL,), (Sample(0, 1000, 0), Sample(1, 1000, 0))), "low")


@pytest.mark.timeout(30)
def test_what_the_daemon_does_is_told_under_the_names_of_the_recording(served):
    arm = AgentcgArm(Scene(None, "", 1 << 30, [PLAN]), watches=True)
    arm.socket = served.path
    log = EventLog()

    def publish(kind, subject, message):
        served.on_loop(lambda: served.registry.bus.publish(kind, subject, message, at=time.time() + 5))

    def hang_up():
        for connection in list(served.listening._connections):
            connection.close()

    async def run():
        listening = asyncio.create_task(arm._listen(await aconnect(served.path)))
        await asyncio.sleep(0.2)
        client = await aconnect(served.path)
        opened = await client.session("low", leased=False)
        place = ManagedPlace(client, opened.name, os.open(os.devnull, os.O_RDONLY), arm._recorded)
        await place.begin(PLAN.calls[0])
        (call,) = arm._recorded
        for kind, subject, message in (
            ("call_held", call, "no room"),
            ("session_frozen", opened.name, "it grew"),
            ("session_pressure", opened.name, "for nobody"),
            ("session_thawed", opened.name, "after 1 s"),
            ("call_killed", f"{opened.name}/unknown", "somebody had to go"),
        ):
            await asyncio.to_thread(publish, kind, subject, message)
        await asyncio.sleep(0.2)
        # The daemon hangs up, and the listener knows that nothing comes any more.
        await asyncio.to_thread(served.on_loop, hang_up)
        await asyncio.wait_for(listening, 5)
        client.close()

    asyncio.run(run())
    arm.tell_controls(log)
    assert [type(event) for event in log.events] == [Held, Frozen, Thawed, Killed]
    assert [(event.session, event.call) for event in log.events] == [
        ("low", CALL.id),
        ("low", None),
        ("low", None),
        ("low", "unknown"),
    ]
    assert [event.why for event in log.events] == ["no room", "it grew", "after 1 s", "somebody had to go"]
    assert all(5 <= event.t < 20 for event in log.events)
