# Appended to torchvision/extension.py where its library does not load: its other modules only ask for these by name.
import torch

_schemas = torch.library.Library("torchvision", "DEF")
_schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
