"""`r1pipe chat`, `export` and `serve`: what is done with a checkpoint when it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import Json, print_json

Checkpoint = Annotated[
    str,
    typer.Argument(
        help="RUN/CHECKPOINT, a checkpoint of the newest run, a folder, or embedded:base", show_default=False
    ),
]


def chat(
    checkpoint: Checkpoint,
    other: Annotated[
        str, typer.Argument(help="a second checkpoint, which is asked as well", show_default=False)
    ] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 = greedy")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", min=0.001, max=1, help="of nucleus sampling")] = 0.95,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="of a reply, as far as the model has positions")
    ] = 32768,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="of each reply [default: another one each time]", show_default=False),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            help="chat, r1-zero, r1-zero-example, or a file with {prompt} [default: as the run trained it, else chat]",
            show_default=False,
        ),
    ] = "",
    web: Annotated[bool, typer.Option("--web", help="as a page in the browser")] = False,
    host: Annotated[
        str, typer.Option(help="of --web: address to listen at [default: 127.0.0.1]", show_default=False)
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="of --web [default: a free one]", show_default=False),
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="of --web: show it in the browser")] = False,
) -> None:
    """Talk with a checkpoint, or with two side by side; each line of stdin is a question."""
    from r1pipe.errors import ConfigError

    names = [name for name in (checkpoint, other) if name]
    if web:
        from r1pipe.serving.web_chat import talk_in_browser

        drawing = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
        talk_in_browser(names, drawing, template, host=host, port=port or 0, show=open)
        return
    if host or port is not None or open:
        raise ConfigError("--host, --port and --open go with --web", fix="add it, or leave them out")

    from r1pipe.serving.chat import Chat
    from r1pipe.serving.chat_screen import Screen
    from r1pipe.serving.talk import load

    screen = Screen()
    if screen.interactive:
        # It takes seconds, or minutes where the model is large.
        screen.note(f"loading {' and '.join(names)}")
    models = [load(name, template) for name in names]

    from r1pipe.serving.chat_model import Drawing

    Chat(models, Drawing(temperature, top_p, max_tokens, seed), screen, template).run()


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="the folder that is written", show_default=False)],
    gguf: Annotated[
        list[str] | None,
        typer.Option(
            "--gguf", metavar="f32|f16|q8_0", help="also a GGUF file of this precision (repeatable)"
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="the model's name [default: that of OUT]", show_default=False)
    ] = "",
    push: Annotated[
        str, typer.Option(metavar="OWNER/NAME", help="upload it to the Hugging Face hub", show_default=False)
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="with --push: everybody may see it")] = False,
    json: Json = False,
) -> None:
    """Write a checkpoint as a folder for others: weights, model card, GGUF, Modelfile."""
    from r1pipe.errors import ConfigError
    from r1pipe.serving.export import export as write
    from r1pipe.serving.export import push as upload
    from r1pipe.serving.gguf_file import PRECISIONS
    from r1pipe.serving.lineage import find_checkpoint

    unknown = [precision for precision in gguf or [] if precision not in PRECISIONS]
    if unknown:
        raise ConfigError(
            f"--gguf {unknown[0]}: there is no such precision", fix=f"one of {', '.join(PRECISIONS)}"
        )
    if public and not push:
        raise ConfigError("--public goes with --push OWNER/NAME", fix="add it, or leave --public out")
    folder = write(find_checkpoint(checkpoint), out, gguf=gguf or (), name=name)
    address = upload(folder, push, public=public) if push else None
    files = sorted(path.name for path in folder.iterdir())
    if json:
        print_json({"folder": str(folder), "files": files, "address": address})
    else:
        print(f"{folder}: {', '.join(files)}")
        if gguf:
            print(f"ollama create {folder.name.lower()} -f {folder / 'Modelfile'}")
        if address:
            print(address)


def serve(
    checkpoint: Checkpoint,
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen at")] = 8000,
) -> None:
    """Serve a checkpoint behind OpenAI's protocol, until Ctrl-C: by vLLM, else by `transformers serve`."""
    from r1pipe.serving.lineage import find_checkpoint
    from r1pipe.serving.serve import serve as become_server

    become_server(find_checkpoint(checkpoint), host=host, port=port)
