"""One account behind the port `streams.ports.BatchProvider`: what no provider does in its own way.

What lives here: an account's name, limits and connections, the exchanges of the Files API that OpenAI made and others
took over, and our label where it is written as metadata. What must not: any provider's words for batches and rows.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from batchmill.agents.providers.http import CallSeen, HttpSeam
from batchmill.agents.providers.uploads import batch_form
from batchmill.agents.settings import AccountSettings
from batchmill.streams.ports import Capabilities, Label, NotFoundError, RemoteBatch

__all__ = ["COMPARED", "WRITTEN", "BatchAccount", "FilesAccount", "answers_to", "label_in", "metadata_of"]

#: The members of Label as they are written in a batch's metadata, among whatever else others write there.
WRITTEN = {
    "app": "batchmill_app",
    "chunk_id": "batchmill_chunk",
    "chunk_attempt": "batchmill_attempt",
    "payload_sha256": "batchmill_sha256",
}
#: By what a batch is told to be a chunk's.
COMPARED = ("app", "chunk_id", "payload_sha256")


class BatchAccount(ABC):
    """One account at a provider."""

    #: the member of an answer that names the object it is about
    id_member: ClassVar[str] = "id"

    def __init__(
        self, *, name: str, account: AccountSettings, on_call: Callable[[CallSeen], None], loopback_only: bool
    ) -> None:
        self._name, self._account = name, account
        self._http = HttpSeam(
            name=name,
            account=account,
            headers=self._headers(),
            on_call=on_call,
            loopback_only=loopback_only,
            id_member=self.id_member,
        )
        self.set_share = self._http.gate.set_share

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._account.can

    async def close(self) -> None:
        """Close idle connections."""
        await self._http.close()

    @abstractmethod
    def _headers(self) -> dict[str, str]:
        """What every request of the account carries; with its key in clear, so never to be shown."""


class FilesAccount(BatchAccount):
    """One whose input and result files go through the Files API that OpenAI made."""

    async def upload(
        self, *, name: str, size_bytes: int, content: AsyncIterator[bytes], may_start: Callable[[], bool]
    ) -> str:
        form = batch_form(name=name, size_bytes=size_bytes, content=content)
        reply = await self._http.send_file("upload", "files", headers=form.headers, body=form.body, may_start=may_start)
        return str(reply.document["id"])

    def download(self, file_id: str) -> AsyncIterator[bytes]:
        return self._http.receive_file("download", f"files/{file_id}/content")

    async def delete_file(self, file_id: str) -> None:
        try:
            await self._http.call("delete_file", "DELETE", f"files/{file_id}")
        except NotFoundError:
            return


def metadata_of(label: Label) -> dict[str, str]:
    return {written: str(getattr(label, name)) for name, written in WRITTEN.items()}


def label_in(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What a batch carries of a label, by the label's own names; what others wrote on it is none of ours."""
    return {name: str(metadata[written]) for name, written in WRITTEN.items() if metadata.get(written) is not None}


def answers_to(batch: RemoteBatch, label: Label) -> bool:
    """Is it this chunk's, of any attempt, with the very same input? Another input would be another chunk's answer."""
    return all(batch.label.get(name) == getattr(label, name) for name in COMPARED)
