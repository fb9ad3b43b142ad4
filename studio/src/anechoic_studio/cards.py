"""What the page shows, as HTML; `Markup.format` and `joined` escape text from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup
from torch import Tensor

from anechoic import audio
from anechoic.audit import TrainingSet
from anechoic.audit.excerpts import HIGHEST_HZ, show
from anechoic.audit.html.curves import curve_svg
from anechoic.audit.html.media import FLOOR_DB, data_uri, flac, shaded_png, spectrogram_db
from anechoic.errors import printable
from anechoic.index import Sound
from anechoic.index.duplicates import Cluster
from anechoic.protection import Judgement
from anechoic.verdict import Verdict
from anechoic_studio.studio import Take, nearest

SIGNS = {"no copy": "✓", "copy": "!", "not judged": "?"}  # so that nothing hangs on the colour
CLUSTER = 4  # clips of a cluster that can be listened to


def joined(parts: Iterable[str]) -> Markup:
    return Markup("").join(parts)


def problem(words: str) -> Markup:
    """An error, in place of a result."""
    return Markup('<p class="problem" role="alert">{}</p>').format(printable(words))


def note(words: str) -> Markup:
    return Markup('<p class="note" role="status">{}</p>').format(printable(words))


def progress(words: str, done: float) -> Markup:
    """How far something is."""
    bar = Markup('<progress value="{:.3f}" max="1">{:.0%}</progress>').format(done, done)
    return note(words) + bar


def badge(status: str) -> Markup:
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(
        status.replace(" ", "-"), SIGNS[status], status.capitalize()
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    cells = (joined(Markup("<td>{}</td>").format(cell) for cell in row) for row in rows)
    return Markup(
        '<div class="list" tabindex="0"><table><tr>{}</tr>{}</table></div>'
    ).format(
        joined(Markup("<th>{}</th>").format(head) for head in heads),
        joined(Markup("<tr>{}</tr>").format(row) for row in cells),
    )  # fmt: skip


def card(title: str, head: str, *body: str, kind: str = "") -> Markup:
    return Markup('<article class="take {}"><header><h3>{}</h3>{}</header>{}</article>').format(
        kind, printable(title), head, joined(body)
    )


# -------------------------------------------------------------------------------------- a sound


def player(wav: Tensor, sample_rate: int, title: str, compare: bool = False) -> Markup:
    """A sound [c, t] with its spectrogram; `compare`: it is not there to be taken away."""
    middle = audio.mono(wav[None], sample_rate)
    played = (wav if len(wav) <= 2 else middle).T.numpy()
    db = spectrogram_db(middle[0].numpy(), sample_rate, min(sample_rate / 2, HIGHEST_HZ))
    return figure(flac(played, sample_rate), shaded_png(1 + db / FLOOR_DB), title, compare)


def figure(
    sound: bytes, picture: bytes, title: str, compare: bool, first: float = 0.0, last: float = 1.0
) -> Markup:
    """A sound, FLAC, under its spectrogram, PNG, between two shares of the width."""
    return Markup(
        '<figure><figcaption>{0}</figcaption><div class="time"><img alt="spectrogram of {0}" '
        'src="{1}" style="margin-left:{2:.2%};width:{3:.2%}"></div>'
        '<audio controls preload="metadata" aria-label="{0}" src="{4}"{5}></audio></figure>'
    ).format(
        printable(title), data_uri("image/png", picture), first, last - first,
        data_uri("audio/flac", sound), Markup(' controlslist="nodownload"') if compare else "",
    )  # fmt: skip


def clip_player(sound: Sound | str, title: str) -> Markup:
    """A training clip, or why it cannot be heard."""
    if isinstance(sound, str):
        return note(f"{title}: cannot be heard, since {sound}.")
    return player(sound.wav, sound.sample_rate, title, True)


def side_by_side(take: Take, training: TrainingSet) -> Markup:
    """A sound and its nearest training clip over the same time, to play in step."""
    assert take.wav is not None
    verdict = nearest(take.judgement)
    if verdict is None or verdict.match.row is None:
        return player(take.wav, take.sample_rate, take.words)
    match, row, media = verdict.match, verdict.match.row, list[bytes]()

    def keep(content: bytes, suffix: str) -> str:
        media.append(content)
        return str(len(media) - 1)

    clip = training.sound(training.numbers[row])
    shown = show(take.wav, take.sample_rate, match, clip, keep)
    made, other = shown.made, shown.training
    sound, picture = media[int(made.sound)], media[int(made.spectrogram)]
    if other is None or isinstance(clip, str):
        return figure(sound, picture, take.words, False) + clip_player(clip, "The training clip")
    begins = other.start_s + (match.start_s or 0.0) - (match.match_start_s or 0.0)
    first = min(made.start_s, begins)
    length = max(made.start_s + made.seconds, begins + other.seconds) - first
    spans = (((at - first) / length, (at + one.seconds - first) / length)
             for at, one in ((made.start_s, made), (begins, other)))  # fmt: skip
    return Markup(
        '<div class="pair" data-lag="{:.4f}">{}{}<p class="ears" role="group" '
        'aria-label="Play both in step"><button type="button" data-ear="a">Play, hear the file'
        '</button><button type="button" data-ear="b">Play, hear the clip</button>'
        '<button type="button" data-ear="both">Play, hear both</button></p></div>'
    ).format(
        made.start_s - begins,
        figure(sound, picture, take.words, False, *next(spans)),
        figure(media[int(other.sound)], media[int(other.spectrogram)],
               f"Training clip: {clip.caption}", True, *next(spans)),
    )  # fmt: skip


# ----------------------------------------------------------------------------------- the verdict


def found(verdict: Verdict) -> str:
    """What a sound is most like, where, and how sure that is."""
    if verdict.clip is None:
        return f"Nothing was compared: {verdict.reason}."
    match, rule = verdict.match, verdict.rule
    words = f"Most like “{verdict.clip.caption}” ({verdict.clip.id}): similarity {match.score:.3f}"
    words += "." if rule is None else f", limit {rule.threshold:.3f}."
    if verdict.p_value is not None:
        words += f" Held-out sound scores as high in at most {verdict.p_value:.1%} of cases."
    if match.start_s is not None and match.length_s is not None:
        words += f" From {match.start_s:.2f} s of the sound and {match.match_start_s or 0:.2f} s"
        words += f" of the clip, for {match.length_s:.2f} s."
    return words


def judged(judgement: Judgement) -> Markup:
    """A verdict in words, and what each detector says, to open."""
    verdict, why = nearest(judgement), judgement.why()
    words = "" if verdict is None else Markup("<p>{}</p>").format(printable(found(verdict)))
    rows = (
        (name, one.status, f"{one.score:.3f}", f"{one.rule.threshold:.3f}" if one.rule else "none")
        for name, one in judgement.verdicts.items()
    )
    return joined([words, note(f"Not judged: {why}.") if why else "", Markup(
        "<details><summary>All detectors</summary>{}</details>"
    ).format(table(("detector", "verdict", "score", "limit"), rows))])  # fmt: skip


def take_card(title: str, take: Take, training: TrainingSet, released: bool) -> Markup:
    """One side of a generation: the sound, or how far it is.

    `released`: it was verified before it is shown; else it is here to be compared with.
    """
    line, verdict = take.curve(), nearest(take.judgement)
    body: list[str] = [progress(take.words, take.done) if take.done < 1 else note(take.words)]
    if take.wav is not None:
        body.append(player(take.wav, take.sample_rate, "What was generated", not released))
    if take.judgement is not None:
        body.append(judged(take.judgement))
    if verdict is not None and verdict.match.row is not None:
        clip = training.sound(training.numbers[verdict.match.row])
        caption = training.index.clips[verdict.match.row].caption
        body.append(clip_player(clip, f"Nearest training clip: {caption}"))
    if line is not None:
        shaded = "" if line.gate is None else "Shaded: the guard acts. "
        dashed = "" if line.threshold is None else "Dashed: where it begins to."
        body.append(curve_svg(line, float(line.distance.max())) + note(shaded + dashed))
    head = "" if take.judgement is None else badge(take.judgement.status)
    return card(title, head, *body, kind="released" if released else "compared")


def check_card(take: Take, training: TrainingSet) -> Markup:
    """The verdict on a file, and how it sounds beside the training clip."""
    assert take.judgement is not None
    both = judged(take.judgement), side_by_side(take, training)
    return card(take.words, badge(take.judgement.status), *both)


def cluster_card(cluster: Cluster, training: TrainingSet) -> Markup:
    """Clips that are near duplicates, to listen to."""
    numbers = {clip.id: number for number, clip in enumerate(training.clips)}
    alike = "the same sound" if cluster.exact else (
        f"cosine {cluster.farthest:.3f} to {cluster.nearest:.3f}"
    )  # fmt: skip
    players = joined(
        clip_player(training.sound(numbers[clip.id]), clip.caption)
        for clip in cluster.clips[:CLUSTER]
    )
    more = len(cluster.clips) - CLUSTER
    return card(
        f"{len(cluster.clips)} clips, {alike}", "",
        Markup('<div class="many">{}</div>').format(players),
        note(f"and {more} more") if more > 0 else "",
    )  # fmt: skip


def bar(share: float, status: str) -> Markup:
    """A similarity in [0, 1] as a bar; that of a copy is hatched."""
    return Markup('<i class="bar {}" style="width:{:.1%}"></i>').format(
        status.replace(" ", "-"), max(share, 0.0)
    )
