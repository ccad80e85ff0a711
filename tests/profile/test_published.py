"""Published tables of other shapes: figures with units and inputs, a runtime's own layers, graphs built again."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from compress.errors import DataError
from compress.profile.layer_table import graphs_of_layers, plain_model
from compress.profile.tables import families_in, read_graphs, read_latencies
from compress.resources import data_folder

# Rows of PyTorch and Core ML benchmarks as published: NVIDIA-AI-IOT/torch2trt (benchmarks), apple/ml-fastvit (README),
# apple/ml-stable-diffusion (README), NVIDIA-AI-IOT/jetson_benchmarks (README); the devices' names are shortened.
PUBLISHED = """model,input,precision,device,metric,value,unit
resnet18,1x3x224x224,fp16,nano,latency,11.4,ms
FastViT-T8,256,fp16,phone,latency,0.8,ms
ResNet50,224,Float16,other,latency,1.52,ms
ResNet50,256,Float16,other,latency,1.9,ms
stable-diffusion-2-1-base UNet,64x64 latent,6 bit,phone,unet_speed,1.45,iter/s
stable-diffusion-2-1-base 512x512,512,6 bit,phone,end_to_end,15.4,s
pose_estimation,256,int8,board,throughput,237.10,fps
"""
# Layers of squeezenet_ssd, mobilenet_v3, nanodet_m, mobilenet_yolo and vision_transformer as ncnn's loader reports
# them (Tencent/ncnn, benchmark/models).
LAYERS = """model,i,type,inputs,in_shape,out_shape,group,kernel,stride,params,macs
net,0,Input,,,"(227, 227, 1, 3, 3)",,,,0,0
net,1,Convolution,data,"(227, 227, 1, 3, 3)","(113, 113, 1, 64, 3)",,3.0,2.0,1792,22064832
net,2,ReLU,a,"(113, 113, 1, 64, 3)","(113, 113, 1, 64, 3)",,,,0,0
net,3,Pooling,a,"(113, 113, 1, 64, 3)","(56, 56, 1, 64, 3)",,,,0,0
net,4,ConvolutionDepthWise,a,"(56, 56, 1, 64, 3)","(28, 28, 1, 64, 3)",64.0,3.0,2.0,640,451584
net,5,Split,a,"(28, 28, 1, 64, 3)","(28, 28, 1, 64, 3)",,,,0,0
net,6,BinaryOp,a;b,"(28, 28, 1, 64, 3)","(28, 28, 1, 64, 3)",,,,0,0
net,7,Concat,a;b,"(28, 28, 1, 64, 3)","(28, 28, 1, 128, 3)",,,,0,0
net,8,ShuffleChannel,a,"(28, 28, 1, 128, 3)","(28, 28, 1, 128, 3)",,,,0,0
net,9,DeconvolutionDepthWise,a,"(28, 28, 1, 128, 3)","(56, 56, 1, 128, 3)",128.0,4.0,2.0,2176,1605632
net,10,PriorBox,a;b,"(28, 28, 1, 128, 3)","(21904, 2, 1, 1, 2)",,,,0,0
net,11,Pooling,a,"(56, 56, 1, 128, 3)","(128, 1, 1, 1, 1)",,,,0,0
net,12,InnerProduct,a,"(128, 1, 1, 1, 1)","(1000, 1, 1, 1, 1)",,,,129000,128000
vit,0,Gemm,a,"(768, 145, 1, 1, 2)","(3072, 145, 1, 1, 2)",,,,0,0
vit,1,MultiHeadAttention,a,"(768, 145, 1, 1, 2)","(768, 145, 1, 1, 2)",,,,0,0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("pandas")
    (tmp_path / "published.csv").write_text(PUBLISHED, encoding="utf-8")
    return tmp_path


def test_a_measurement_is_of_a_model_and_what_it_was_given(folder: Path) -> None:
    read = read_latencies(folder, "published.csv", {"precision": "Float16"})
    assert read == {"ResNet50 @ 224": 1.52, "ResNet50 @ 256": 1.9}


def test_any_of_several_values_may_be_wanted(folder: Path) -> None:
    read = read_latencies(folder, "published.csv", {"metric": "latency", "precision": ("fp16", "Float16")})
    assert len(read) == 4
    assert read_latencies(folder, "published.csv", {"value": "11.4"}) == {"resnet18 @ 1x3x224x224": 11.4}


def test_figures_become_milliseconds_by_their_units(folder: Path) -> None:
    speed = read_latencies(folder, "published.csv", {"metric": "unet_speed"})
    assert speed == {"stable-diffusion-2-1-base UNet @ 64x64 latent": pytest.approx(1000 / 1.45)}
    whole = read_latencies(folder, "published.csv", {"metric": "end_to_end"})
    assert list(whole.values()) == [pytest.approx(15400)]
    assert list(read_latencies(folder, "published.csv", {"unit": "fps"}).values()) == [pytest.approx(1000 / 237.1)]
    (folder / "strange.csv").write_text("model,input,value,unit\nnet,224,3,parsecs\n", encoding="utf-8")
    with pytest.raises(DataError, match="no latency is in 'parsecs'"):
        read_latencies(folder, "strange.csv", {})


def test_an_int8_file_goes_by_its_models_name(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    text = "model,avg_ms,num_threads\nresnet18_int8,158.5,1\nresnet18,191.1,1\nresnet18_int8,83.92,4\n"
    (tmp_path / "times.csv").write_text(text, encoding="utf-8")
    assert read_latencies(tmp_path, "times.csv", {"num_threads": "4"}) == {"resnet18": 83.92}


def test_layers_of_a_runtime_become_ops(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.read_csv(StringIO(LAYERS)).to_csv(tmp_path / "ours_layers.csv.gz", index=False)
    graphs = read_graphs(tmp_path, "ours")
    conv, relu, pool, depthwise, add, concat, shuffle, up, boxes, mean, dense = graphs["net"]
    assert (conv.kind, conv.channels, conv.weight_count) == ("conv", (3, 64), 1792)
    assert (conv.kernel, conv.stride) == ((3, 3), (2, 2))
    assert (conv.input_shapes, conv.output_shape) == (((1, 3, 227, 227),), (1, 64, 113, 113))
    assert relu.fused_into == conv.name and (pool.kind, mean.kind, mean.output_shape) == ("pool", "reduce", (1, 128))
    assert (depthwise.kind, depthwise.groups, depthwise.macs) == ("depthwise_conv", 64, 451584)
    assert add.input_shapes == ((1, 64, 28, 28),) * 2 and concat.input_shapes == ((1, 128, 28, 28),)
    assert shuffle.input_shapes == ((1, 2, 64, 28, 28),) and up.kind == "conv_transpose"
    assert (boxes.kind, boxes.macs) == ("other", None)
    assert (dense.kind, dense.channels, dense.macs) == ("linear", (128, 1000), 128000)
    product, into, _, scores, softmax, values, out = graphs["vit"]
    assert product.macs == 145 * 768 * 3072 and product.weight_count == 768 * 3072
    assert into.weight_count == 3 * 768**2 and out.weight_count == 768**2
    assert scores.macs == values.macs == 145**2 * 768 and softmax.output_shape == (12, 145, 145)


def test_a_detector_is_of_its_backbones_family(tmp_path: Path) -> None:
    (tmp_path / "ours_layers.csv.gz").touch()
    names = ["mobilenet_v2", "mobilenetv2_yolov3", "yolov4-tiny", "squeezenet_ssd"]
    families = families_in(tmp_path, "ours", names)
    assert [families[name] for name in names] == ["mobilenet", "mobilenet", "yolo", "squeezenet"]
    assert plain_model("mobilenetv2_yolov3") == "mobilenet_yolo"
    assert graphs_of_layers([]) == {}


def test_graphs_built_again_say_their_families_and_where_they_are_from(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    graphs = read_graphs(tmp_path, "published")
    families = families_in(tmp_path, "published", graphs)
    assert families["MobileCLIP-S0 image @ 256 (B:224)"] == families["FastViT-T8 @ 256"] == "fastvit"
    record = json.loads((data_folder("profiles") / "graphs" / "published.json").read_text(encoding="utf-8"))
    assert set(record["graphs"]) == set(graphs)
    for name, built in record["graphs"].items():
        assert built["constructor"] and record["packages"]
        assert built["macs"] == sum(op.macs or 0 for op in graphs[name]), name
        assert built["params_built"] == pytest.approx(built["params_published"], rel=0.12), name


def test_a_published_graph_is_the_network_of_that_name(tmp_path: Path) -> None:
    """ResNet-50: 53 convolutions and a matrix, 4.09 GMACs in all; its norms fold into the convolutions."""
    pytest.importorskip("pandas")
    ops = read_graphs(tmp_path, "published")["ResNet50 @ 224"]
    assert sum(op.kind == "conv" for op in ops) == 53 and sum(op.kind == "linear" for op in ops) == 1
    assert sum(op.macs or 0 for op in ops) == pytest.approx(4.09e9, rel=0.001)
    assert all(op.fused_into for op in ops if op.kind == "norm")
