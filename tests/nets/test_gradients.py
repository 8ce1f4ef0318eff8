"""Every network can be attacked and trained through: gradients on a real face, falling losses."""

import pytest
import torch
from seedweights import fill, tensor
from skimage.data import astronaut
from torch.nn import functional as F

from facedeid.nets.aei import AEIConfig, AEINet
from facedeid.nets.curricularface import CurricularFace
from facedeid.nets.hiding import HidingConfig, HidingNet
from facedeid.nets.inception_resnet import InceptionResnetV1
from facedeid.nets.iresnet import iresnet
from facedeid.nets.patch_discriminator import (
    MultiscaleDiscriminator,
    hinge_fake,
    hinge_generator,
    hinge_real,
)

RECOGNISERS = {
    "iresnet18": (lambda: iresnet(18), 112),
    "curricularface": (lambda: CurricularFace(50, gated=True), 112),
    "facenet": (InceptionResnetV1, 160),
}


def face(size):
    """The astronaut's face, 1×3×size×size in [-1, 1]."""
    photo = torch.from_numpy(astronaut()[40:200, 145:305].copy()).permute(2, 0, 1)[None]
    return F.interpolate(photo / 127.5 - 1, size, mode="bilinear", antialias=True).clamp(-1, 1)


@pytest.mark.parametrize("name", RECOGNISERS)
def test_recognisers_pass_exact_gradients_to_the_face(name):
    build, size = RECOGNISERS[name]
    net = fill(build()).eval().double()
    x, towards = face(size).double().requires_grad_(), tensor("towards", (1, 512)).double()

    def similarity(image):
        return F.cosine_similarity(net(image), towards).sum()

    (gradient,) = torch.autograd.grad(similarity(x), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.95  # FaceNet never sees the last rows and columns
    step = 1e-8 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (similarity(x + step) - similarity(x - step)) / 2e-8
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=1e-4)


def batch(size):
    """Four different pictures of the face: mirrored, darker, in other colours."""
    x = face(size)
    return torch.cat([x, x.flip(3), x * 0.5 - 0.3, x.flip(1)])


def losses_of(parameters, loss, *, steps=5, rate=2e-3):
    adam = torch.optim.Adam(parameters, rate, betas=(0.0, 0.999))
    seen = []
    for _ in range(steps):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
        seen.append(value.item())
    return [*seen, loss().item()]


def test_aei_net_learns_to_reconstruct_a_batch():
    """L_rec, L_att and the adversarial term together, as IdentityDP trains it."""
    torch.manual_seed(0)
    net = AEINet(AEIConfig(size=64, identity=32, width=1 / 8))
    critic = MultiscaleDiscriminator(layers=2, scales=2, width=8).requires_grad_(False)
    faces, identity = batch(64), F.normalize(tensor("identity", (4, 32)))

    def loss():
        result, wanted = net(faces, identity)
        attributes = sum(F.mse_loss(a, b) for a, b in zip(net.encoder(result), wanted, strict=True))
        return hinge_generator(critic(result)) + 5 * F.mse_loss(result, faces) + 5 * attributes

    seen = losses_of(net.parameters(), loss)
    assert seen[-1] < 0.9 * seen[0]
    unused = [key for key, p in net.named_parameters() if p.grad is None]
    assert not unused


def test_the_discriminator_learns_to_tell_faces_from_noise():
    torch.manual_seed(0)
    critic = MultiscaleDiscriminator(layers=2, scales=2, width=8)
    real, fake = batch(64), tensor("noise", (4, 3, 64, 64)).clamp(-1, 1)

    def loss():
        return hinge_real(critic(real)) + hinge_fake(critic(fake))

    seen = losses_of(critic.parameters(), loss)
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("conditioning", ["tile", "film", "both"])
def test_the_hiding_network_learns_to_reconstruct_a_batch(conditioning):
    torch.manual_seed(0)
    net = HidingNet(HidingConfig(width=1 / 8, identity=32, conditioning=conditioning))
    faces, feature = batch(64), tensor("feature", (4, 32))
    seen = losses_of(net.parameters(), lambda: F.mse_loss(net(faces, feature), faces))
    assert seen[-1] < 0.8 * seen[0]
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("conditioning", ["tile", "film"])
def test_the_hiding_network_learns_to_obey_the_feature(conditioning):
    """One cover, two features, two results wanted: solvable only by looking at the feature."""
    torch.manual_seed(0)
    net = HidingNet(HidingConfig(width=1 / 8, identity=32, conditioning=conditioning, norm="group"))
    cover, feature = face(64).expand(2, -1, -1, -1), tensor("feature", (2, 32))
    wanted = torch.tensor([0.3, -0.3]).view(2, 1, 1, 1).expand(-1, 3, 64, 64)

    def separation():
        one, other = net(cover, feature)
        return F.mse_loss(one - other, wanted[0] - wanted[1])

    seen = losses_of(net.parameters(), separation, steps=10)
    assert seen[-1] < 0.8 * seen[0]
