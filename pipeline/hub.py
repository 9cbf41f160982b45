"""Puts an exported model on the Hugging Face Hub. Nothing here runs unless the user asks for it."""

from pathlib import Path

from huggingface_hub import HfApi

from pipeline.errors import UserError, in_one_line


def push_folder(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a model folder, and return its address.

    The token is the one that `hf auth login` stored, or HF_TOKEN; it is neither read nor written here.

    Args:
        folder: Of an exported model.
        repository: ``owner/name``; made if it is not there.
        private: Whether a repository that is made is private.

    Raises:
        UserError: If the Hub refuses, or cannot be reached.
    """
    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model trained by tacit")
    except Exception as error:  # whatever the library or the network raises
        raise UserError(
            f"--push ({repository}): the Hub did not take it ({in_one_line(error)}); the folder {folder} is "
            "written. Log in with `hf auth login`, and check name and network."
        ) from error
    return str(address)
