"""A microphone across the room, simulated."""

from __future__ import annotations

import math
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from myna.audio.augment.reverb import reverberated
from myna.audio.augment.rooms import Room, pyroomacoustics, room_response
from myna.audio.augment.transform import AudioTransform, Parameters
from myna.samples import AudioClip

if TYPE_CHECKING:
    import numpy as np

WALL_METERS = 0.4  # speaker and microphone keep this far from the walls


class FarField(AudioTransform):
    """The clip as heard in a simulated room; direct sound and level stay as they were, echoes are added.

    Rooms are boxes that grow where the distance asks for it. Needs the extra `augment`.
    """

    type: Literal["far_field"] = "far_field"
    min_rt60_seconds: float = Field(default=0.15, ge=0.1, le=3)  # until sound has decayed by 60 dB
    max_rt60_seconds: float = Field(default=0.7, ge=0.1, le=3)
    min_distance_meters: float = Field(default=0.5, ge=0.1, le=20)  # from speaker to microphone
    max_distance_meters: float = Field(default=4.0, ge=0.1, le=20)
    min_side_meters: float = Field(default=3.0, ge=1.5, le=50)  # length and width of the room
    max_side_meters: float = Field(default=8.0, ge=1.5, le=50)
    min_height_meters: float = Field(default=2.4, ge=2, le=20)
    max_height_meters: float = Field(default=3.5, ge=2, le=20)

    def contents(self) -> dict[str, str]:
        return {"pyroomacoustics": version("pyroomacoustics") if find_spec("pyroomacoustics") else ""}

    def draw(self, rng: np.random.Generator) -> Parameters:
        distance = rng.uniform(self.min_distance_meters, self.max_distance_meters)
        height = rng.uniform(self.min_height_meters, self.max_height_meters)
        rise = rng.uniform(-0.5, 0.5) * min(distance, height - 2 * WALL_METERS)
        around = rng.uniform(0, 2 * math.pi)
        flat = math.sqrt(distance**2 - rise**2)
        way = (flat * math.cos(around), flat * math.sin(around), rise)  # from the speaker to the microphone
        sides = [float(rng.uniform(self.min_side_meters, self.max_side_meters)) for _ in range(2)]
        size = [max(side, abs(part) + 2 * WALL_METERS + 0.01) for side, part in zip(sides, way, strict=False)]
        size.append(float(height))
        source = [
            float(rng.uniform(WALL_METERS - min(0, part), side - WALL_METERS - max(0, part)))
            for side, part in zip(size, way, strict=True)
        ]
        return {
            "rt60_seconds": float(rng.uniform(self.min_rt60_seconds, self.max_rt60_seconds)),
            "room_meters": size,
            "source_meters": source,
            "microphone_meters": [float(place + part) for place, part in zip(source, way, strict=True)],
            "tail_seed": int(rng.integers(2**32)),
        }

    def apply(self, clip: AudioClip, parameters: Parameters) -> AudioClip:
        room = Room(
            size=tuple(parameters["room_meters"]),
            source=tuple(parameters["source_meters"]),
            microphone=tuple(parameters["microphone_meters"]),
            rt60_seconds=parameters["rt60_seconds"],
        )
        response, direct = room_response(room, clip.sample_rate_hz, parameters["tail_seed"])
        return AudioClip(reverberated(clip.samples, response, direct), clip.sample_rate_hz)

    def check(self) -> list[str]:
        pyroomacoustics()
        return []
