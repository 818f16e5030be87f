"""The network: ResNet-18 in its CIFAR form, with a projection head."""
