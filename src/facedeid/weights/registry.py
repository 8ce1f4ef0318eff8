"""Public checkpoints that facedeid knows: where they are, what they are, what one may do with them.

A full sha256 stands here where it is publicly known from several independent places (or from the
publisher's own pointer file). Where it is not, the first import or download records the hash it
found and everything later is held to that ("trust on first use").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["CHECKPOINTS", "Checkpoint", "Layout"]

Layout = Literal["tensors", "nested", "psp", "rosinality", "nvidia", "onnx"]
"""How the published file is built. `tensors` (a plain state dict) and `onnx` are used as they are;
the others hold more than weights and are converted to safetensors when imported:
`nested` (a state dict inside a training file), `psp`, `rosinality`, `nvidia`."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One published file of weights."""

    name: str
    summary: str
    filename: str
    """As published; also its name in the store, unless it is converted."""
    urls: tuple[str, ...]
    """Direct addresses, tried in order. Empty: only by hand, from `source`."""
    sha256: str | None
    """Of the published file; None: not publicly known, trusted on first use."""
    size: int | None
    """Bytes; None: not known for certain."""
    licence: str
    commercial: bool | None
    """What the licence of the weights says of commercial use; None: it does not say."""
    source: str
    """The page where the authors publish it."""
    paper: str
    input: str
    """What the network wants to see."""
    architecture: str
    layout: Layout

    @property
    def converted(self) -> bool:
        """Whether an import leaves a converted file instead of the published one."""
        return self.layout not in ("tensors", "onnx")

    @property
    def stored(self) -> str:
        """Its file name in the store."""
        return f"{self.name}.safetensors" if self.converted else self.filename


def _drive(file: str) -> str:
    return f"https://drive.usercontent.google.com/download?id={file}&export=download&confirm=t"


_TORCHVISION = "BSD-3-Clause (torchvision); ImageNet's terms may apply to the weights"
_NVIDIA = "Nvidia Source Code License-NC (research and evaluation only); trained on FFHQ"
_INSIGHTFACE = "non-commercial research only, says the model zoo"
_RGB112 = "RGB, N×3×112×112, (x/255 - 0.5)/0.5, five points on the ArcFace template"
_LPIPS = "Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
_STYLEGAN2 = "Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN"
_ARCFACE = "Deng et al. 2019, ArcFace"
_YUNET = "Wu et al. 2023, YuNet: A Tiny Millisecond-level Face Detector"
_RICHZHANG = "https://github.com/richzhang/PerceptualSimilarity"
_HEADS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
)


def _heads(net: str, size: int, sha256: str) -> Checkpoint:
    return Checkpoint(
        name=f"lpips_{net}_heads",
        summary=f"LPIPS v0.1: linear heads on {net}",
        filename=f"lpips_{net}_v0.1.pth",
        urls=(f"{_HEADS}/{net}.pth",),
        sha256=sha256,
        size=size,
        licence="BSD-2-Clause",
        commercial=True,
        source=_RICHZHANG,
        paper=_LPIPS,
        input="feature maps of the backbone",
        architecture="lpips",
        layout="tensors",
    )


def _torchvision(name: str, summary: str, filename: str, size: int, sha256: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        summary=summary,
        filename=filename,
        urls=(f"https://download.pytorch.org/models/{filename}",),
        sha256=sha256,
        size=size,
        licence=_TORCHVISION,
        commercial=None,
        source="https://pytorch.org/vision/stable/models.html",
        paper="ImageNet classification weights of torchvision",
        input="RGB in [0, 1], minus (.485,.456,.406), divided by (.229,.224,.225)",
        architecture=filename.split("-")[0],
        layout="tensors",
    )


def _facenet(name: str, data: str, filename: str, size: int | None, sha: str | None) -> Checkpoint:
    return Checkpoint(
        name=name,
        summary=f"FaceNet (Inception-ResNet v1), trained on {data}",
        filename=filename,
        urls=(f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{filename}",),
        sha256=sha,
        size=size,
        licence=f"MIT (code); trained on {data}, a research data set",
        commercial=None,
        source="https://github.com/timesler/facenet-pytorch",
        paper="Schroff et al. 2015, FaceNet; weights by D. Sandberg, ported by T. Esler",
        input="RGB, N×3×160×160, (x - 127.5)/128",
        architecture="inception_resnet_v1",
        layout="tensors",
    )


def _arcface(depth: int) -> Checkpoint:
    return Checkpoint(
        name=f"arcface_torch_r{depth}",
        summary=f"ArcFace iResNet-{depth} (insightface arcface_torch)",
        filename=f"arcface_torch_r{depth}.pth",
        urls=(),
        sha256=None,
        size=None,
        licence=_INSIGHTFACE,
        commercial=False,
        source="https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch",
        paper=_ARCFACE,
        input=_RGB112,
        architecture=f"iresnet{depth}",
        layout="nested",
    )


def _yunet(name: str, filename: str, url: str, size: int, sha256: str, licence: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        summary="YuNet face detector, for cv2.FaceDetectorYN",
        filename=filename,
        urls=(url,),
        sha256=sha256,
        size=size,
        licence=f"{licence}; trained on WIDER FACE",
        commercial=True,
        source="https://github.com/ShiqiYu/libfacedetection.train",
        paper=_YUNET,
        input="BGR, 0..255",
        architecture="onnx",
        layout="onnx",
    )


_TRAIN = "https://github.com/ShiqiYu/libfacedetection.train/raw/master/onnx"

_ENTRIES = (
    Checkpoint(
        name="psp_ffhq_encode",
        summary="pSp: encoder and StyleGAN2-1024 for inverting faces",
        filename="psp_ffhq_encode.pt",
        urls=(_drive("1bMTNWkh5LArlaWSc_wa8VKyq2V42T2z0"),),
        sha256=None,
        size=None,
        licence="MIT (code); holds NVIDIA's FFHQ generator, which is for research only",
        commercial=False,
        source="https://github.com/eladrich/pixel2style2pixel",
        paper="Richardson et al. 2021, Encoding in Style",
        input="RGB, N×3×256×256 in [-1, 1], FFHQ crop",
        architecture="psp",
        layout="psp",
    ),
    Checkpoint(
        name="stylegan2_ffhq_256",
        summary="StyleGAN2 at 256 px (rosinality, 550,000 iterations on FFHQ)",
        filename="550000.pt",
        urls=(_drive("1PQutd-JboOCOZqmd95XWxWrO8gGEvRcO"),),
        sha256=None,
        size=None,
        licence="MIT (code); trained on FFHQ (CC BY-NC-SA 4.0)",
        commercial=False,
        source="https://github.com/rosinality/stylegan2-pytorch",
        paper=_STYLEGAN2,
        input="latent vectors, N×512",
        architecture="stylegan2-256",
        layout="rosinality",
    ),
    Checkpoint(
        name="stylegan2_ffhq_1024",
        summary="StyleGAN2 config-f at 1024 px, NVIDIA's weights in rosinality's layout",
        filename="stylegan2-ffhq-config-f.pt",
        urls=(_drive("1EM87UquaoQmk17Q8d5kYIAHqu0dkYqdT"),),
        sha256=None,
        size=None,
        licence=_NVIDIA,
        commercial=False,
        source="https://github.com/eladrich/pixel2style2pixel",
        paper=_STYLEGAN2,
        input="latent vectors, N×512",
        architecture="stylegan2-1024",
        layout="rosinality",
    ),
    Checkpoint(
        name="stylegan2_ada_ffhq",
        summary="StyleGAN2-ADA at 1024 px, NVIDIA's own pickle",
        filename="ffhq.pkl",
        urls=("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/ffhq.pkl",),
        sha256=None,
        size=None,
        licence=_NVIDIA,
        commercial=False,
        source="https://github.com/NVlabs/stylegan2-ada-pytorch",
        paper="Karras et al. 2020, Training Generative Adversarial Networks with Limited Data",
        input="latent vectors, N×512",
        architecture="stylegan2-1024",
        layout="nvidia",
    ),
    Checkpoint(
        name="ir_se50",
        summary="ArcFace IR-SE50 (TreB1eN), the identity loss of pSp and FaceShifter",
        filename="model_ir_se50.pth",
        urls=(
            "https://github.com/xinntao/facexlib/releases/download/v0.1.0/"
            "recognition_arcface_ir_se50.pth",
            _drive("1KW7bjndL3QG3sxBbZxreGHigcCCpsDgn"),
        ),
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        size=None,
        licence="MIT (code); trained on MS-Celeb-1M, which was withdrawn",
        commercial=None,
        source="https://github.com/TreB1eN/InsightFace_Pytorch",
        paper=_ARCFACE,
        input=_RGB112,
        architecture="ir_se50",
        layout="tensors",
    ),
    Checkpoint(
        name="curricularface",
        summary="CurricularFace IR-101",
        filename="CurricularFace_Backbone.pth",
        urls=(_drive("1f4IwVa2-Bn9vWLwB-bUwm53U_MlvinAj"),),
        sha256=None,
        size=None,
        licence="MIT (code); trained on MS-Celeb-1M, which was withdrawn",
        commercial=None,
        source="https://github.com/HuangYG123/CurricularFace",
        paper="Huang et al. 2020, CurricularFace",
        input=_RGB112,
        architecture="curricularface_ir101",
        layout="tensors",
    ),
    _facenet(
        "facenet_vggface2",
        "VGGFace2",
        "20180402-114759-vggface2.pt",
        111_898_327,
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
    ),
    _facenet("facenet_casia", "CASIA-WebFace", "20180408-102900-casia-webface.pt", None, None),
    _arcface(50),
    _arcface(100),
    Checkpoint(
        name="w600k_r50",
        summary="ArcFace iResNet-50 on WebFace600K, ONNX (from insightface's buffalo_l)",
        filename="w600k_r50.onnx",
        urls=("https://huggingface.co/maze/faceX/resolve/main/w600k_r50.onnx",),
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        size=174_383_860,
        licence=_INSIGHTFACE,
        commercial=False,
        source="https://github.com/deepinsight/insightface/releases/tag/v0.7",
        paper=_ARCFACE,
        input="RGB, N×3×112×112, (x - 127.5)/127.5, five points on the ArcFace template",
        architecture="onnx",
        layout="onnx",
    ),
    Checkpoint(
        name="mobilefacenet_casia",
        summary="MobileFaceNet, trained on CASIA-WebFace (MobileFaceNet_Pytorch)",
        filename="068.ckpt",
        urls=(
            "https://raw.githubusercontent.com/Xiaoccer/MobileFaceNet_Pytorch/master/"
            "model/best/068.ckpt",
        ),
        sha256=None,
        size=None,
        licence="none given, so no permission; trained on CASIA-WebFace (research)",
        commercial=False,
        source="https://github.com/Xiaoccer/MobileFaceNet_Pytorch",
        paper="Chen et al. 2018, MobileFaceNets",
        input="RGB, N×3×112×96, (x - 127.5)/128, columns 8..103 of the ArcFace chip",
        architecture="mobilefacenet",
        layout="nested",
    ),
    Checkpoint(
        name="mobileface_v2",
        summary="MobileFace Identification V2, ONNX with its normalisation inside",
        filename="mobileface_v2.onnx",
        urls=(),
        sha256="a438344004baf6d24000813294771a222089fc66c488bb321e18c0a41b5d8742",
        size=3_529_365,
        licence="MIT; training data not stated",
        commercial=None,
        source="https://github.com/becauseofAI/MobileFace",
        paper="MobileFace (becauseofAI), converted from MXNet to ONNX",
        input="RGB, N×3×112×112, 0..255",
        architecture="onnx",
        layout="onnx",
    ),
    _yunet(
        "yunet",
        "face_detection_yunet_2023mar.onnx",
        "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/"
        "face_detection_yunet/face_detection_yunet_2023mar.onnx",
        232_589,
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        "MIT",
    ),
    _yunet(
        "yunet_320",
        "yunet_n_320_320.onnx",
        f"{_TRAIN}/yunet_n_320_320.onnx",
        317_434,
        "81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2",
        "Apache-2.0",
    ),
    _yunet(
        "yunet_640",
        "yunet_n_640_640.onnx",
        f"{_TRAIN}/yunet_n_640_640.onnx",
        317_466,
        "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
        "Apache-2.0",
    ),
    _torchvision(
        "lpips_alex_backbone",
        "AlexNet, for LPIPS",
        "alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    _torchvision(
        "lpips_vgg_backbone",
        "VGG-16, for LPIPS",
        "vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    _torchvision(
        "lpips_squeeze_backbone",
        "SqueezeNet 1.1, for LPIPS",
        "squeezenet1_1-b8a52dc0.pth",
        4_958_839,
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
    ),
    _heads("alex", 6_009, "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    _heads("vgg", 7_289, "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    _heads("squeeze", 10_811, "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"),
    _torchvision(
        "vgg19",
        "VGG-19, for perceptual losses",
        "vgg19-dcbb9e9d.pth",
        574_673_361,
        "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    ),
    Checkpoint(
        name="inception_fid",
        summary="Inception-v3 of the FID paper (optional, only for FID)",
        filename="weights-inception-2015-12-05-6726825d.pth",
        urls=(
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size=95_628_359,
        licence="Apache-2.0 (torch-fidelity); ImageNet's terms may apply to the weights",
        commercial=None,
        source="https://github.com/toshas/torch-fidelity",
        paper="Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule",
        input="RGB, N×3×299×299, (x - 128)/128",
        architecture="inception_v3_fid",
        layout="tensors",
    ),
)

CHECKPOINTS: Mapping[str, Checkpoint] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> entry, in the order in which they are listed."""
