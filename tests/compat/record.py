"""Records the answers to every example in wire/ anew, from servers that it starts. Read the difference afterwards."""

import json

from compat_servers import CHAT_MODEL, EMBEDDING_MODEL
from wire import CHAT_FLAGS, EMBEDDING_FLAGS, FOLDER, ask_all

from octavo.cli.child import running_server


def main() -> None:
    with (
        running_server(CHAT_MODEL, *CHAT_FLAGS) as chat,
        running_server(EMBEDDING_MODEL, *EMBEDDING_FLAGS) as embedding,
    ):
        url_of = {"chat": chat.address, "embedding": embedding.address}
        for file in sorted(FOLDER.glob("*.json")):
            asked = json.loads(file.read_text())
            questions = [{k: v for k, v in one.items() if k not in ("status", "answer", "events")} for one in asked]
            answers = ask_all(url_of, questions)
            recorded = [{**question, **answer} for question, answer in zip(questions, answers, strict=True)]
            file.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
            print(f"{file.name}: {len(recorded)} examples")


if __name__ == "__main__":
    main()
