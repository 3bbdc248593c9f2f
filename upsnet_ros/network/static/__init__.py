"""UPSNet in static shapes: what a frame takes never depends on what is in it.

Lists of proposals and detections have a fixed length and say how much of it is there. So several
images of one size make a batch, the host never waits for the device, and one CUDA graph can hold
everything from the network's input to labels. `network.upsnet.UPSNet.forward`, image by image and
in shapes as they come, defines the result.
"""
