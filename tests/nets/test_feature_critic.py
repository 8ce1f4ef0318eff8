import torch

from facedeid.faces import align, detect, frame
from facedeid.models import Models
from facedeid.nets.feature_critic import FeatureCritic
from facedeid.nets.patch_discriminator import hinge_fake, hinge_real
from facedeid.random import seeded, stream


def crops(photo, shifts):
    """The face of a photo, as often as there are shifts: N×3×96×96."""
    place = frame(max(detect(photo), key=lambda face: face.score), 96)
    face = align(photo, place)
    return torch.stack([face.roll(shift, 2) for shift in shifts])


def marked(faces, random):
    """With dark strokes somewhere on each."""
    made = faces.clone()
    for face in made:
        for x, y in torch.randint(20, 60, (3, 2), generator=random).tolist():
            face[:, y : y + 4, x : x + 16] -= 0.6
    return made.clamp(-1, 1)


def test_it_soon_sees_marks_where_it_has_seen_none(astronaut, hopper):
    trunk = Models().perceptual
    with seeded(0):
        critic = FeatureCritic(trunk)
    random = stream(0, "marks")
    shown = torch.cat([crops(photo, range(-2, 2)) for photo in (astronaut, hopper)])
    before = [x.clone() for x in trunk.state_dict().values()]
    optimiser = torch.optim.Adam(critic.parameters(), 1e-3, betas=(0.0, 0.99))
    for _ in range(30):
        real, made = critic(shown), critic(marked(shown, random))
        loss = hinge_real(real) + hinge_fake(made)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        real, made = critic(shown), critic(marked(shown, random))
    score = [torch.stack([m.mean((1, 2, 3)) for m in maps]).mean(0) for maps in (real, made)]
    assert (score[0] > score[1]).all()
    assert all(torch.equal(a, b) for a, b in zip(before, trunk.state_dict().values(), strict=True))


def test_only_the_heads_are_saved_and_their_maps_have_the_trunks_sizes():
    trunk = Models().perceptual
    critic = FeatureCritic(trunk)
    assert all(key.startswith("heads.") for key in critic.state_dict())
    x = torch.zeros(2, 3, 64, 64, requires_grad=True)
    maps = critic(x)
    assert [m.shape[2:] for m in maps] == [m.shape[2:] for m in trunk.maps(x)]
    assert all(m.shape[:2] == (2, 1) for m in maps)
    sum(m.sum() for m in maps).backward()
    assert torch.isfinite(x.grad).all()  # of black pictures, too
