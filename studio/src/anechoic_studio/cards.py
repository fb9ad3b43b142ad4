"""What the page shows, as HTML; `Markup.format` escapes text from outside."""

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

BADGES: dict[str, tuple[str, str]] = {  # a sign and words, so that nothing hangs on the colour
    "no copy": ("✓", "No copy"),
    "copy": ("!", "Copy"),
    "not judged": ("?", "Not judged"),
}
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
    return Markup('<p role="status">{}</p>{}').format(printable(words), bar)


def badge(status: str) -> Markup:
    sign, words = BADGES[status]
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(
        status.replace(" ", "-"), sign, words
    )


# -------------------------------------------------------------------------------------- a sound


def player(wav: Tensor, sample_rate: int, title: str, compare: bool = False) -> Markup:
    """A sound [c, t] with its spectrogram.

    Args:
        wav: the sound.
        sample_rate: in Hz.
        title: what it is.
        compare: it is here to be compared with, not to be taken away.
    """
    played = wav if len(wav) <= 2 else audio.mono(wav[None], sample_rate)
    middle = audio.mono(wav[None], sample_rate)[0].numpy()
    db = spectrogram_db(middle, sample_rate, min(sample_rate / 2, HIGHEST_HZ))
    return figure(
        flac(played.T.numpy(), sample_rate), shaded_png(1 + db / FLOOR_DB), title, compare
    )


def figure(
    sound: bytes, picture: bytes, title: str, compare: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
) -> Markup:  # fmt: skip
    """A sound, FLAC, under its spectrogram, PNG, which starts and ends at shares of the width."""
    keep = Markup(' controlslist="nodownload"') if compare else ""
    return Markup(
        '<figure><figcaption>{0}</figcaption><div class="time"><img alt="spectrogram of {0}" '
        'src="{1}" style="margin-left:{4:.2%};width:{5:.2%}"></div>'
        '<audio controls preload="metadata" aria-label="{0}" src="{2}"{3}></audio></figure>'
    ).format(
        printable(title), data_uri("image/png", picture), data_uri("audio/flac", sound), keep,
        span[0], span[1] - span[0],
    )  # fmt: skip


def clip_player(training: TrainingSet, row: int | None) -> Markup:
    """The training clip of a row of the index, or why it cannot be heard."""
    if row is None:
        return Markup("")
    sound = training.sound(training.numbers[row])
    if isinstance(sound, str):
        return note(f"The clip cannot be heard: {sound}.")
    return player(sound.wav, sound.sample_rate, f"Nearest training clip: {sound.caption}", True)


def side_by_side(take: Take, training: TrainingSet) -> Markup:
    """A sound and its nearest training clip over the same time, to play in step."""
    assert take.wav is not None
    assert take.judgement is not None
    match = nearest(take.judgement).match
    if match.row is None:
        return player(take.wav, take.sample_rate, take.words)
    media: dict[str, bytes] = {}

    def keep(content: bytes, suffix: str) -> str:
        media[name := f"{len(media)}{suffix}"] = content
        return name

    clip = training.sound(training.numbers[match.row])
    shown = show(take.wav, take.sample_rate, match, clip, keep)
    sound, picture = media[shown.made.sound], media[shown.made.spectrogram]
    if shown.training is None or isinstance(clip, str):
        missing = note(f"The training clip cannot be heard: {shown.missing}.")
        return figure(sound, picture, take.words) + missing
    later = (match.start_s or 0.0) - (match.match_start_s or 0.0)  # the clip, in the file's time
    lag = shown.made.start_s - shown.training.start_s - later
    starts = shown.made.start_s, shown.training.start_s + later
    ends = starts[0] + shown.made.seconds, starts[1] + shown.training.seconds
    first, length = min(starts), max(ends) - min(starts)
    one, two = (
        ((start - first) / length, (end - first) / length)
        for start, end in zip(starts, ends, strict=True)
    )
    made = figure(sound, picture, take.words, span=one)
    other = figure(
        media[shown.training.sound], media[shown.training.spectrogram],
        f"Training clip: {clip.caption}", True, two,
    )  # fmt: skip
    return Markup(
        '<div class="pair" data-lag="{:.4f}">{}{}<p class="ears" role="group" '
        'aria-label="Play both in step"><button type="button" data-ear="a">Play, hear the file'
        '</button><button type="button" data-ear="b">Play, hear the clip</button>'
        '<button type="button" data-ear="both">Play, hear both</button></p></div>'
    ).format(lag, made, other)


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


def detectors(judgement: Judgement) -> Markup:
    """What each detector says, as a table to open."""
    rows = joined(
        Markup("<tr><th scope=row>{}</th><td>{}</td><td>{:.3f}</td><td>{}</td></tr>").format(
            name, one.status, one.score, "none" if one.rule is None else f"{one.rule.threshold:.3f}"
        )
        for name, one in judgement.verdicts.items()
    )
    return Markup(
        "<details><summary>All detectors</summary><table><tr><th>detector<th>verdict<th>score"
        "<th>limit</tr>{}</table></details>"
    ).format(rows)


def verdict(judgement: Judgement) -> Markup:
    """The verdict in words."""
    why = judgement.why()
    return joined(
        [
            Markup("<p>{}</p>").format(printable(found(nearest(judgement)))),
            note(f"Not judged: {why}.") if why else "",
            detectors(judgement),
        ]
    )


def take_card(title: str, take: Take, training: TrainingSet, released: bool) -> Markup:
    """One side of a generation.

    Args:
        title: what it is.
        take: the sound, or how far it is.
        training: the training set.
        released: it was verified before it is shown; else it is here to be compared with.
    """
    judgement, line = take.judgement, take.curve()
    head = badge(judgement.status) if judgement else ""
    body: list[str] = [progress(take.words, take.done) if take.done < 1 else note(take.words)]
    if take.wav is not None:
        body.append(player(take.wav, take.sample_rate, "What was generated", not released))
    if judgement is not None:
        body += [verdict(judgement), clip_player(training, nearest(judgement).match.row)]
    if line is not None:
        shaded = "" if line.gate is None else "Shaded: the guard acts. "
        dashed = "" if line.threshold is None else "Dashed: where it begins to."
        body.append(curve_svg(line, float(line.distance.max())) + note(shaded + dashed))
    return Markup('<article class="take {}"><header><h3>{}</h3>{}</header>{}</article>').format(
        "released" if released else "compared", title, head, joined(body)
    )


def check_card(take: Take, training: TrainingSet) -> Markup:
    """The verdict on a file, and how it sounds beside the training clip."""
    assert take.judgement is not None
    return Markup('<article class="take"><header><h3>{}</h3>{}</header>{}{}</article>').format(
        printable(take.words), badge(take.judgement.status), verdict(take.judgement),
        side_by_side(take, training),
    )  # fmt: skip


# ------------------------------------------------------------------------------------- the index


def cluster_card(cluster: Cluster, training: TrainingSet) -> Markup:
    """Clips that are near duplicates, to listen to."""
    numbers = {clip.id: number for number, clip in enumerate(training.clips)}
    players = []
    for clip in cluster.clips[:CLUSTER]:
        sound = training.sound(numbers[clip.id])
        players.append(
            player(sound.wav, sound.sample_rate, clip.caption, True)
            if isinstance(sound, Sound)
            else note(f"{clip.caption} ({clip.id}): {sound}")
        )
    alike = "the same sound" if cluster.exact else (
        f"cosine {cluster.farthest:.3f} to {cluster.nearest:.3f}"
    )  # fmt: skip
    more = len(cluster.clips) - len(players)
    return Markup(
        '<article class="take"><header><h3>{} clips, {}</h3></header>'
        '<div class="many">{}</div>{}</article>'
    ).format(len(cluster.clips), alike, joined(players), note(f"and {more} more") if more else "")


def bars(values: Sequence[tuple[float, float]], limit: float | None) -> Markup:
    """Similarities in [0, 1] by where guidance started, as bars; above the limit they say so."""
    rows = joined(
        Markup(
            '<tr><th scope="row">{:.0%}</th><td><i class="{}" style="width:{:.1f}%"></i></td>'
            "<td>{:.3f} {}</td></tr>"
        ).format(
            start,
            over := "over" if limit is not None and value > limit else "",
            100 * max(value, 0),
            value,
            badge("copy") if over else "",
        )
        for start, value in sorted(values)
    )
    return Markup(
        '<table class="bars"><tr><th>guidance starts at<th>similarity to the nearest training clip'
        "<th></tr>{}</table>"
    ).format(rows)
