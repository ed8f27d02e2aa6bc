"""Everyday sounds made from nothing: almost sixty kinds, endlessly many things of each kind. NumPy only.

    doorbell = SOUNDS["doorbell"].instance(rng)        # one particular doorbell
    first, second = doorbell.example(rng, 16000), doorbell.example(rng, 16000)

The same Generator state gives the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edge.sounds import impulsive, living, machines, tonal
from edge.sounds.voice import Instrument, SoundRecipe, Voice

__all__ = ["SOUNDS", "TEN_TEST_SOUNDS", "Instrument", "SoundRecipe", "Voice"]

_KINDS = {
    "tonal": (
        tonal.alarm_clock,
        tonal.appliance_melody,
        tonal.car_horn,
        tonal.dial_tones,
        tonal.doorbell,
        tonal.kettle_whistle,
        tonal.microwave_beep,
        tonal.music_box,
        tonal.phone_ring,
        tonal.reversing_truck,
        tonal.siren,
        tonal.smoke_alarm,
        tonal.whistling,
    ),
    "impulsive": (
        impulsive.balloon_pop,
        impulsive.church_bell,
        impulsive.clapping,
        impulsive.clock_ticking,
        impulsive.coin_drop,
        impulsive.dishes,
        impulsive.door_slam,
        impulsive.drum,
        impulsive.footsteps,
        impulsive.glass_breaking,
        impulsive.glass_clink,
        impulsive.hammering,
        impulsive.keyboard,
        impulsive.keys_jangling,
        impulsive.knock,
        impulsive.match_strike,
        impulsive.water_drops,
    ),
    "machine": (
        machines.coffee_grinder,
        machines.drill,
        machines.electric_razor,
        machines.engine,
        machines.frying,
        machines.hair_dryer,
        machines.helicopter,
        machines.paper_crumpling,
        machines.pump,
        machines.running_tap,
        machines.sawing,
        machines.spray_can,
        machines.toilet_flush,
        machines.vacuum_cleaner,
        machines.zip_fastener,
    ),
    "living": (
        living.baby_cry,
        living.cat_meow,
        living.cough,
        living.cow_moo,
        living.cricket,
        living.crow,
        living.dog_bark,
        living.frog,
        living.laughter,
        living.owl,
        living.rooster,
        living.snoring,
        living.songbird,
        living.spoken_word,
    ),
}

SOUNDS: Mapping[str, SoundRecipe] = MappingProxyType(
    {draw.__name__: SoundRecipe(draw.__name__, kind, draw) for kind, draws in _KINDS.items() for draw in draws}
)
"""Every kind of sound by name."""

TEN_TEST_SOUNDS: tuple[str, ...] = (
    "balloon_pop",
    "church_bell",
    "clapping",
    "doorbell",
    "glass_clink",
    "hammering",
    "knock",
    "microwave_beep",
    "smoke_alarm",
    "whistling",
)
"""Ten impulsive and tonal kinds, fixed for good: what is taught when a test asks that plain noise never fires."""
