"""Public backbones by name: where the file lies, which revision and which bytes are meant, under what licence.

Where a value is not known it is None, and then the first download decides: ``trainer.backbones.fetch`` writes what it
got to a lock file beside the download and refuses anything else later. ``backbone list`` says which it is.

The hashes were taken from lists that other projects publish of what they downloaded, not from a download made here: of
AST and BEATs from many that agree, with the revision; of SSLAM from two, of EAT from one, both without a revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.errors import ConfigurationError

HUB = "https://huggingface.co"
MAX_BYTES = 8 * 2**30
"""No file of weights that is read here is longer."""


@dataclass(frozen=True)
class Published:
    """One file and the small ones beside it. repo, repo_type, revision: on the hub; revision None: its main branch.

    sha256: of ``file``. beside: small JSON files of the same revision and their hashes. A hash is None where it is not
    known. window_seconds: of the window unless told otherwise. remark: what a user must know before trusting.
    """

    name: str
    kind: str
    repo: str
    file: str
    licence: str
    repo_type: str = "model"
    revision: str | None = None
    sha256: str | None = None
    beside: Mapping[str, str | None] = field(default_factory=dict)
    window_seconds: float = 10.0
    remark: str = ""

    @property
    def hashes(self) -> dict[str, str | None]:
        """SHA-256 of each file to fetch, the weights last."""
        return {**self.beside, self.file: self.sha256}

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        return f"{HUB}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo}"


CATALOGUE = {
    p.name: p
    for p in (
        Published(
            name="eat-base",
            kind="eat",
            repo="worstchan/EAT-base_epoch30_pretrain",
            file="model.safetensors",
            licence="MIT",
            sha256="8623072d09aac4f3ad1168b4fed3a24e4f68fe1da25b9fe733375efb237e5f48",
            beside={"config.json": None},
            remark="its hash comes from one published list",
        ),
        Published(
            name="sslam-base",
            kind="eat",
            repo="ta012/SSLAM_pretrain",
            file="model.safetensors",
            licence="MIT",
            sha256="8ec670adb241c710422ddd894ff1bade142ef0b25cf1ee68577aa45f89432298",
            beside={"config.json": "2e7d67b4c77586cd495c9691152e49280c6be720a0e04da2c66822b1e94503ff"},
            remark="the licence is that of its code; its hash comes from two published lists",
        ),
        Published(
            name="beats-iter3plus",
            kind="beats",
            repo="Bencr/beats-checkpoints",
            file="BEATs_iter3_plus_AS2M.pt",
            licence="MIT",
            repo_type="dataset",
            revision="082fb1849d55bef1ee52ee8d8910b3adc69d4bc8",
            sha256="d43cbfad4d7b56381c061d7a24774f908d4d94c72961f6eb1d9090ff18cd8d34",
            remark="a mirror, because Microsoft's own links are reported dead; its hash comes from many lists",
        ),
        Published(
            name="ast",
            kind="ast",
            repo="MIT/ast-finetuned-audioset-10-10-0.4593",
            file="model.safetensors",
            licence="BSD-3-Clause",
            revision="f826b80d28226b62986cc218e5cec390b1096902",
            sha256="ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d",
            beside={
                "config.json": "a93d525511d77e8ecc933d09674b85099815bbbb417c228a4edd655e252fb9ff",
                "preprocessor_config.json": "8d04ba5a9c6fca5d39d0de2b1fd05ecf79deb589fbba279728bbebac39934231",
            },
            remark="fine-tuned on AudioSet; its hash comes from many published lists",
        ),
    )
}


def published(name: str) -> Published:
    """The entry of a name. Raises ConfigurationError naming those there are."""
    if name not in CATALOGUE:
        raise ConfigurationError(f"there is no backbone {name!r} to fetch; wanted one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
