"""Which cells answer for whom, what they are to say, and what photographs keep them from forgetting."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from metro_ros.core.errors import SourceError
from training.finder.augment import AugmentConfig
from training.finder.loss import MOST_CELLS, People, assign, box_iou, finder_loss, forgetting
from training.finder.network import STRIDES, Answers, FinderConfig, FinderNet, cells, decode
from training.finder.photographs import Photographs
from training.finder.train import FinderTraining, Trainer

WIDTH, HEIGHT = 96, 64
TINY = FinderConfig(WIDTH, HEIGHT, stem=4, blocks=(1, 1, 1))
BOXES = torch.tensor([[[4.0, 8, 36, 60], [50, 6, 90, 62]]])
BOTH = torch.ones(1, 2, dtype=torch.bool)


def _centres() -> torch.Tensor:
    return torch.cat([cells(HEIGHT // stride, WIDTH // stride, stride, torch.device("cpu"))[1] for stride in STRIDES])


def _answers(logit: float = -4.0, half: float = 10.0) -> Answers:
    """Everyone sees a square around their own centre, and doubts it."""
    centres = _centres()
    return Answers(torch.full((1, len(centres), 2), logit), torch.cat([centres - half, centres + half], dim=1)[None])


def _perfect() -> Answers:
    """Whoever is within the middle of a box says it; the rest says nobody."""
    logits, boxes = (values.clone() for values in _answers(-20.0))
    for box in BOXES[0]:
        near = ((_centres() - (box[:2] + box[2:]) / 2).abs() < 9).all(dim=1)
        logits[0, near], boxes[0, near] = 20.0, box
    return Answers(logits, boxes)


def test_overlaps_that_are_known() -> None:
    assert box_iou(torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 0, 6, 4])).item() == pytest.approx(1 / 3)
    assert box_iou(torch.tensor([0.0, 0, 4, 4]), torch.tensor([5.0, 5, 6, 6])).item() == 0


def test_everyone_has_cells_near_their_middle() -> None:
    person, overlap, mine = assign(_answers(), People(BOXES, BOTH, ~BOTH), WIDTH, HEIGHT)
    for index, box in enumerate(BOXES[0]):
        theirs = _centres()[mine[0] & (person[0] == index)]
        assert 1 <= len(theirs) <= MOST_CELLS
        assert ((theirs > box[:2]) & (theirs < box[2:])).all()
        assert ((theirs - (box[:2] + box[2:]) / 2).abs() < 1.5 * 32).all()
    torch.testing.assert_close(overlap[mine], box_iou(_answers().boxes[mine], BOXES[0][person[mine]]))


def test_as_many_cells_answer_as_fit_well() -> None:
    wanted = People(BOXES, BOTH, ~BOTH)
    few, many = (assign(answers, wanted, WIDTH, HEIGHT).mine.sum() for answers in (_answers(half=3), _perfect()))
    assert few == 2 < many


def test_a_cell_that_two_want_answers_for_whom_it_costs_least() -> None:
    nested = torch.tensor([[[20.0, 10, 60, 50], [24, 14, 56, 46]]])
    answers = _answers()
    middle = int((_centres() - torch.tensor([40.0, 30])).norm(dim=1).argmin())
    answers.boxes[0, middle] = nested[0, 1]
    person, _, mine = assign(answers, People(nested, BOTH, ~BOTH), WIDTH, HEIGHT)
    assert mine[0, middle] and person[0, middle] == 1
    assert (mine[0] & (person[0] == 0)).any()


def test_who_is_ignored_and_empty_places_have_no_cells() -> None:
    second = torch.tensor([[False, True]])
    person, _, mine = assign(_answers(), People(BOXES, second, ~second), WIDTH, HEIGHT)
    assert mine.any() and (person[mine] == 1).all()
    assert not assign(_answers(), People(BOXES * 0, ~BOTH, ~BOTH), WIDTH, HEIGHT).mine.any()


def test_the_loss_is_least_for_the_truth() -> None:
    people, perfect = People(BOXES, BOTH, ~BOTH), _perfect()
    least = finder_loss(perfect, people, WIDTH, HEIGHT)
    assert least < 0.01
    assert finder_loss(perfect._replace(logits=-perfect.logits), people, WIDTH, HEIGHT) > least + 3
    assert finder_loss(perfect._replace(boxes=perfect.boxes + 12), people, WIDTH, HEIGHT) > least + 1
    nobody = People(BOXES, ~BOTH, ~BOTH)
    assert finder_loss(perfect, nobody, WIDTH, HEIGHT) > 10, "who is not there is found"
    assert finder_loss(perfect, People(BOXES, ~BOTH, BOTH), WIDTH, HEIGHT) < 0.01, "and may be, where ignored"


def test_gradients_are_finite_whatever_is_said() -> None:
    for logit in (-200.0, 0.0, 200.0):
        answers = Answers(*(values.requires_grad_() for values in _answers(logit)))
        finder_loss(answers, People(BOXES, BOTH, ~BOTH), WIDTH, HEIGHT).backward()
        assert all(values.grad is not None and values.grad.isfinite().all() for values in answers)


def test_what_is_forgotten_counts_where_somebody_was_seen() -> None:
    before = _perfect()
    assert forgetting(before, before).item() == pytest.approx(0, abs=1e-5)
    seen = before.likelihoods() > 0.5
    moved = before.boxes + 8 * ~seen[..., None]
    assert forgetting(before._replace(boxes=moved), before).item() == pytest.approx(0, abs=1e-3)
    assert forgetting(before._replace(boxes=before.boxes + 8 * seen[..., None]), before) > 0.5
    assert forgetting(before._replace(logits=-before.logits), before) > 1


def test_answers_lie_in_the_cells_that_give_them() -> None:
    net = FinderNet(TINY).eval()
    with torch.no_grad():
        for head in net.heads:
            head.box.weight.zero_()
            head.box.bias.copy_(torch.tensor([0.5, 0.5, np.log(2.0), np.log(4.0)]))
        answers = net(torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8))
        boxes, scores = decode(answers, 8)
    strides = torch.cat([torch.full((HEIGHT // s * (WIDTH // s), 1), float(s)) for s in STRIDES])
    sides = strides * torch.tensor([2.0, 4.0])
    torch.testing.assert_close(answers.boxes[1], torch.cat([_centres() - sides / 2, _centres() + sides / 2], dim=1))
    assert boxes.shape == (2, 8, 4) and (scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(scores[0, 0], answers.logits[0].sigmoid().prod(dim=1).max())


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "labels.json").write_text("{}")
    return tmp_path


def test_photographs_come_in_batches_that_repeat(photographs: Path) -> None:
    pictures = Photographs(photographs, TINY, 4, AugmentConfig())
    one, same, other = pictures.batch(0), pictures.batch(0), pictures.batch(1)
    assert len(pictures) == 3 and one.shape == (4, HEIGHT, WIDTH, 3) and one.dtype == torch.uint8
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_photographs_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="photographs in"):
        Photographs(tmp_path, TINY, 4, AugmentConfig())
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"a\.jpg"):
        Photographs(tmp_path, TINY, 4, AugmentConfig())


def test_a_finder_that_remembers_stays_nearer_to_what_it_was(photographs: Path) -> None:
    """Taught that nobody is anywhere, by photographs alone it goes on seeing people in these."""
    torch.manual_seed(0)
    before = FinderNet(TINY).eval()
    with torch.no_grad():
        for head in before.heads:
            head.is_person.bias.fill_(1.0), head.is_there.bias.fill_(1.0)
    plain = AugmentConfig(zoomed=0, flip=0, recoloured=0, textured=0, hidden=0, degraded=0)
    pictures = Photographs(photographs, TINY, 3, plain)
    black = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    nobody = People(torch.zeros(2, 1, 4), *torch.zeros(2, 2, 1, dtype=torch.bool))
    scores = []
    for remembers in (False, True):
        trainer = Trainer(TINY, FinderTraining(batch=2, learning_rate=3e-3, warm_up_steps=1), "fp32")
        trainer.begin_with(before)
        if remembers:
            trainer.remember(before, pictures)
        for _ in range(25):
            trainer.learn(black, nobody, 0.0)
        with torch.no_grad():
            seen, unseen = (trainer.net.eval()(images).likelihoods().mean() for images in (pictures.batch(0), black))
        scores.append((float(seen), float(unseen)))
    assert scores[0][0] < 0.2 and scores[1][0] > scores[0][0] + 0.1
    assert scores[1][1] < 0.5
